"""The frozen networks: where each comes from, how it is fetched, converted and tested."""
