# strsr upscale in a container, for CPUs by default:
#
#   docker build -t strsr .
#   docker run --rm --init -u "$(id -u):$(id -g)" -v "$PWD:/photos" strsr upscale /photos/in /photos/out
#
# For NVIDIA GPUs, with PyPI's wheels of PyTorch, which bring CUDA along:
#
#   docker build -t strsr:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
#   docker run --rm --init --gpus all ... strsr:cuda upscale /photos/in /photos/out
#
# docs/using/docker.md has the rest. scripts/try_dockerfile.py runs these steps without Docker.

FROM debian:trixie-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/strsr
# First, as it is large and seldom changes.
RUN /opt/strsr/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision
COPY pyproject.toml README.md LICENSE /src/
COPY docs/strsr.1 /src/docs/
COPY strsr /src/strsr
COPY strsr_cli /src/strsr_cli
COPY models /src/models
# Extras to add, such as [jxl,remote].
ARG EXTRAS=
RUN /opt/strsr/bin/pip install --no-cache-dir "/src$EXTRAS" \
    && /opt/strsr/bin/pip uninstall --yes pip

FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home strsr
COPY --from=build /opt/strsr /opt/strsr
# A home that any user may write to: with -u, the user has none of his own.
ENV PATH=/opt/strsr/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp
USER strsr
WORKDIR /photos
ENTRYPOINT ["strsr"]
CMD ["--help"]
