"""Training pairs per second of processor time from shards in a bucket, beside the same shards on the disk.

    python -m benchmarks.bucket        (needs `make services`: it starts an S3 server of its own)

The stricter form of "training from the bucket": what is compared is the reading alone, without the step. `warm`: all
cells lie in the local cache; `cold`: each clip's first time, in seconds by the clock, the server on the same cores.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.loader import encode, moving, rates, write_clips

CLIPS, FRAMES, SIZES = 64, 125, (256, 64)


def serve(port: int) -> subprocess.Popen:
    """An S3 server with a bucket `bucket`, to which the environment leads."""
    import boto3

    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.5)
    boto3.client("s3").create_bucket(Bucket="bucket")
    return process


def compare(size: int) -> dict:
    """Pairs per second of one core for clips of this size."""
    from pipeline.common.bucket import offload
    from uniface.data import ClipDataset
    from uniface.store import Disk

    with tempfile.TemporaryDirectory() as name:
        here, there = Path(name, "here"), Path(name, "there")
        video = encode(Path(name, "x.mp4"), list(moving(FRAMES, size)), 8)
        for folder in (here, there):
            folder.mkdir()
            write_clips(folder, video, FRAMES, CLIPS)
        offload(there, f"s3://bucket/{size}", "train-*.parquet")
        disk = Disk(str(Path(name, "cache")), 1 << 30)
        far = ClipDataset(there, "train", 0, disk)
        began = time.perf_counter()
        for i in range(CLIPS):
            far.video(i)
        cold = (time.perf_counter() - began) / CLIPS
        ways = {}
        for way, dataset in (("local", ClipDataset(here, "train", 0)), ("warm", far)):
            rng = np.random.default_rng(0)
            ways[way] = lambda dataset=dataset, rng=rng: [dataset.pair(k % CLIPS, rng) for k in range(24)]
        found = rates(ways, 24)
    return {
        "local_pairs_per_cpu_second": found["local"],
        "warm_pairs_per_cpu_second": found["warm"],
        "warm_share_of_local": found["warm"] / found["local"],
        "cold_seconds_a_clip": cold,
        "clip_kilobytes": len(video) / 1024,
    }


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = serve(port)
    try:
        print(json.dumps({f"{size}px": compare(size) for size in SIZES}, indent=2))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
