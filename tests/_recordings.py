"""Small recordings of event cameras, in the forms that data sets have."""

import io
import struct

import numpy as np


def random_events(count, side, seed):
    rng = np.random.default_rng(seed)
    events = np.empty(count, [("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", bool)])
    events["x"], events["y"] = rng.integers(side, size=(2, count))
    events["p"], events["t"] = (
        rng.integers(2, size=count),
        np.sort(rng.integers(300_000, size=count)),
    )
    return events


def as_bin(events):
    """N-MNIST's five bytes an event."""
    x, y, t, p = (events[field].astype(np.int64) for field in "xytp")
    columns = (x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255)
    return np.stack(columns, 1).astype(np.uint8).tobytes()


def as_aedat2(events):
    """AEDAT 2.0 as a DVS128 writes it: SpikingJelly's reading, backwards."""
    x, y, t, p = (events[field].astype(np.int64) for field in "xytp")
    address = (127 - x) << 8 | (127 - y) << 1 | (1 - p)
    return b"#!AER-DAT2.0\r\n# made by a test\r\n" + np.stack((address, t), 1).astype(">u4").tobytes()


def as_aedat4(events):
    """The smallest AEDAT 4: one stream, one packet, not compressed (FlatBuffer by hand)."""
    node = "<node name='{}' path='/'>"
    attribute = "<attr key='{}' type='{}'>{}</attr>"
    info = (
        "<dv version='2.0'>" + node.format("outInfo") + node.format("0")
        + attribute.format("compression", "string", "NONE")
        + attribute.format("originalModuleName", "string", "test")
        + attribute.format("originalOutputName", "string", "events")
        + attribute.format("typeDescription", "string", "events")
        + attribute.format("typeIdentifier", "string", "EVTS")
        + node.format("info")
        + attribute.format("sizeX", "int", 128)
        + attribute.format("sizeY", "int", 128)
        + attribute.format("source", "string", "test")
        + "</node></node></node></dv>"
    ).encode()  # fmt: skip
    head = struct.pack("<I4s5H2xiII", 20, b"IOHE", 10, 8, 0, 0, 4, 12, 4, len(info)) + info + b"\0"
    packet = struct.pack("<I4s3H2xiI4xI", 16, b"EVTS", 6, 8, 4, 8, 8, len(events))
    for x, y, t, p in events.tolist():
        packet += struct.pack("<qhh?3x", t, x, y, p)
    packet = struct.pack("<I", len(packet)) + packet
    head = b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(head)) + head
    return head + struct.pack("<II", 0, len(packet)) + packet


def as_npy(events):
    """tonic's DVS-Gesture: columns x, y, p, t in ms."""
    columns = [events[field].astype(np.int64) for field in "xyp"] + [events["t"] // 1000]
    file = io.BytesIO()
    np.save(file, np.stack(columns, 1))
    return file.getvalue()


def write(root, files):
    for name, raw in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    return root
