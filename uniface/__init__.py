"""UniFace (ECCV 2022): one framework for face reenactment and face swapping.

`source` gives the identity, `target` gives the attributes; always these two words, always in this order.
Images are float RGB `(B, 3, H, W)` in [-1, 1]; uint8 `(H, W, 3)` is what the readers
of `data.py` and `images.py` give and what `augment.py` and `faces.py` take.
"""
