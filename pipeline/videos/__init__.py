"""Videos and their annotations: where they come from, FOMM's protocol, the codec, and the shards of clips."""
