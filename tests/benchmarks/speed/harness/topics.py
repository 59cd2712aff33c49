"""The targets, and the module that measures each, in the order of measuring."""

TARGETS = {
    1: "Ingest: a video file to frames",
    2: "Packed shards to batch",
    3: "MemAug and repository",
    4: "A training step",
    5: "Vision encoder",
    6: "Answering",
    7: "Start-up",
    8: "Questions per second of training",
    9: "Batches of texts, images and videos",
    10: "Answers of several clients at the same time",
}
TOPICS = {
    "ingest": 1,
    "shards": 2,
    "memaug": 3,
    "step": 4,
    "encoder": 5,
    "answering": 6,
    "startup": 7,
    "questions": 8,
    "batching": 9,
    "decoding": 10,
}
