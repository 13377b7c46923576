# The studio in a container:
#   docker build -t joinery . && docker run -e JOINERY_PASSWORD=... -p 127.0.0.1:7860:7860 -v joinery:/data joinery
# With a GPU: --build-arg REQUIREMENTS=requirements-gpu.txt, and `docker run --gpus all`.
# Without one, a far smaller image: --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG BASE=python:3.11-slim

FROM ${BASE} AS packages
ARG REQUIREMENTS=requirements.txt
ARG PIP_EXTRA_INDEX_URL
WORKDIR /opt/joinery
COPY requirements.txt requirements-gpu.txt ./
COPY locks locks
# All but PyTorch comes from the lock, with hashes; locks/renew.py says why PyTorch does not.
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r "locks/${REQUIREMENTS}" \
    && /opt/venv/bin/pip install --no-cache-dir -r "${REQUIREMENTS}" -c "locks/cuda-${REQUIREMENTS}"

FROM ${BASE}
# The volume takes its first content, and so its owner, from the folder in the image.
RUN useradd --uid 1000 --create-home joinery && install -d -o joinery -g joinery /data
COPY --from=packages /opt/venv /opt/venv
WORKDIR /opt/joinery
COPY . .
# Models that are fetched by hub name outlive the container too.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HOME=/data/hub JOINERY_DATA=/data
USER 1000
VOLUME /data
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/healthz', timeout=5)"]
CMD ["python", "-m", "app", "--host", "0.0.0.0", "--port", "7860", "--stop-training"]
