# syntax=docker/dockerfile:1
#
#   docker build -t synchuman .                                       torch with CUDA 13: drivers from 580 on
#   docker build -t synchuman --build-arg TORCH=cu126 .               CUDA 12: drivers from 525 on
#   docker build -t synchuman --build-arg TORCH=cpu .                 no GPU; mini makes a model in a minute
#   docker build -t synchuman --build-arg WEIGHTS=official .          the published weights inside the image
#   docker run --gpus all -p 8000:8000 -v synchuman:/data synchuman   page and service on port 8000
#
# scripts/chroot_build.py executes these very lines without Docker. docs/hosting.md tells more.
ARG DEBIAN=trixie-slim

FROM debian:${DEBIAN} AS packages
# pypi, or a folder of PyTorch's own index: cpu, cu126, cu128, cu130.
ARG TORCH=pypi
ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv
WORKDIR /build
COPY requirements.txt requirements.lock requirements-torch.lock ./
# Every file is checked against its hash. PyTorch's own index is outside of the lock: there the range counts.
RUN if [ "$TORCH" = pypi ]; then \
      pip install --no-deps --require-hashes -r requirements-torch.lock; \
    else \
      pip install --index-url "https://download.pytorch.org/whl/$TORCH" "$(grep '^torch[<>=]' requirements.txt)"; \
    fi
RUN pip install --no-deps --require-hashes -r requirements.lock

FROM debian:${DEBIAN} AS app
ARG TORCH=pypi
# On a GPU, Triton builds kernels when they are first used, with a C compiler.
# hadolint ignore=DL3008,SC2046
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
      $(if [ "$TORCH" != cpu ]; then echo gcc libc6-dev python3-dev; fi) \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 user \
    && install -d -o user -g user /data /opt/weights
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/home/user \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/data/huggingface \
    XDG_CACHE_HOME=/data/cache \
    U2NET_HOME=/data/cache/u2net \
    TORCH_HOME=/data/cache/torch \
    TRITON_CACHE_DIR=/data/cache/triton \
    NUMBA_CACHE_DIR=/data/cache/numba \
    MPLCONFIGDIR=/data/cache/matplotlib \
    TMPDIR=/data/tmp \
    SYNCHUMAN_VARIANT=mini
WORKDIR /app
COPY pyproject.toml README.md LICENSE NOTICE app.py api_server.py run_pipeline.py ./
COPY docker ./docker
COPY assets ./assets
COPY synchuman ./synchuman
USER 1000
# none, or official: baked in, so that a container needs neither network nor volume.
ARG WEIGHTS=none
RUN --mount=type=secret,id=HF_TOKEN,env=HF_TOKEN \
    if [ "$WEIGHTS" != none ]; then \
      HF_HOME=/opt/weights/huggingface SYNCHUMAN_HOME=/opt/weights/synchuman TMPDIR=/tmp \
      python3 -m synchuman weights pull; \
    fi
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python3", "docker/health.py"]
ENTRYPOINT ["/app/docker/start.sh"]
