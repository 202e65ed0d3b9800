"""`python -m benchmarks._unbatched_server FOLDER PORT`: the server of the tutorials, which scores one request per call.

In: a model folder. Out: FastAPI with `transformers.pipeline`. `--one-at-a-time` makes the route a coroutine, so that
requests run one after the other instead of in threads.
"""

import argparse

import fastapi
import soundfile
import uvicorn
from fastapi import UploadFile
from transformers import pipeline

import auricle  # noqa: F401  (registers auricle's families with transformers)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("port", type=int)
    parser.add_argument("--one-at-a-time", action="store_true")
    options = parser.parse_args()
    classifier = pipeline("audio-classification", model=options.folder, device="cpu", top_k=None)
    app = fastapi.FastAPI()

    def answer(file: UploadFile) -> dict[str, object]:
        samples, rate = soundfile.read(file.file, dtype="float32")
        samples = samples if samples.ndim == 1 else samples.mean(axis=1)
        return {"choices": classifier({"raw": samples, "sampling_rate": rate})}

    async def answer_one_at_a_time(file: UploadFile) -> dict[str, object]:
        return answer(file)

    app.post("/v1/classify")(answer_one_at_a_time if options.one_at_a_time else answer)

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
