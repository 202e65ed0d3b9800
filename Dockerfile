# `auricle serve` in a container, as an unprivileged user. It runs an exported model, without PyTorch:
#   docker build -t auricle .
#   docker run --rm --read-only --tmpfs /tmp -p 8000:8000 -v "$PWD/run/onnx:/model:ro" -e AURICLE_TOKEN auricle
# The API only, without the web page: docker build --build-arg EXTRAS=onnx,serve -t auricle .
# Any run or model folder, with PyTorch on the CPU:
#   docker build --build-arg TORCH=cpu --build-arg EXTRAS=train,serve,demo -t auricle .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG EXTRAS=onnx,serve,demo
ARG TORCH=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/auricle
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src ./src
# PyPI's torch includes the CUDA libraries, several gigabytes that a CPU does not use.
RUN if [ -n "${TORCH}" ]; then \
        /opt/auricle/bin/pip install --constraint constraints.txt --index-url "https://download.pytorch.org/whl/${TORCH}" torch; \
    fi
RUN /opt/auricle/bin/pip install --constraint constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin auricle
COPY --from=build /opt/auricle /opt/auricle
ENV PATH=/opt/auricle/bin:${PATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 HOME=/tmp
USER 10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["auricle"]
# Other machines can reach a container, so it requires AURICLE_TOKEN; add --open to allow everyone.
CMD ["serve", "/model", "--host", "0.0.0.0", "--port", "8000"]
