"""The embedded sample world: procedural talking heads and portraits with exact ground truth, no assets, no network.

`identity` says what a person is, `motion` how it moves, `head` + `features` + `body` + `render` draw it, `world` is the
data set (videos and portraits, split by identity), `raw` writes it in the layouts of VoxCeleb2 and CelebA-HQ, `truth`
gives the exact reenacted and swapped image.
"""
