"""What every stage needs: files, places, progress, Ray, the code a result depends on, and running the road."""
