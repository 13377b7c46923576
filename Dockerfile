# The studio in a container:
#   docker build -t joinery . && docker run --init -e JOINERY_PASSWORD=... -p 127.0.0.1:7860:7860 -v joinery:/data joinery
# docs/deploy.md says more. With a GPU: --build-arg REQUIREMENTS=requirements-gpu.txt --build-arg CPU_INDEX=, and
# `docker run --gpus all`.
ARG BASE=python:3.11-slim

FROM ${BASE} AS packages
ARG REQUIREMENTS=requirements.txt
# PyTorch's own build for a CPU: PyPI's brings gigabytes of CUDA, which an image without a GPU has no use for.
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /opt/joinery
COPY requirements.txt requirements-gpu.txt ./
COPY locks locks
# All but PyTorch comes from the lock, with hashes; locks/renew.py says why PyTorch does not.
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r "locks/${REQUIREMENTS}" \
    && PIP_EXTRA_INDEX_URL="${CPU_INDEX}" \
        /opt/venv/bin/pip install --no-cache-dir -r "${REQUIREMENTS}" -c "locks/cuda-${REQUIREMENTS}"

FROM ${BASE}
LABEL org.opencontainers.image.title="Joinery" \
    org.opencontainers.image.description="Learn a content and a style apart, join them in one LoRA file" \
    org.opencontainers.image.licenses="Apache-2.0"
# Any user may run it, as long as the group is 0. The volume takes its first content, and so its owner, from the image.
RUN install -d -m 2775 -g 0 /data
COPY --from=packages /opt/venv /opt/venv
WORKDIR /opt/joinery
COPY . .
# All that is written lies under /data, so that the rest may be read only; models that are fetched by name outlive the
# container too.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    JOINERY_DATA=/data JOINERY_PORT=7860 HOME=/data/home TMPDIR=/data/tmp XDG_CACHE_HOME=/data/cache HF_HOME=/data/hub
USER 1000:0
VOLUME /data
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "-m", "app.health"]
CMD ["python", "-m", "app", "--host", "0.0.0.0", "--stop-training"]
