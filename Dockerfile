# Lethe on the CPU. Build: docker build -t lethe .      Run: docker run --rm -v "$PWD:/work" lethe run request.yaml
# What pip installs by default may bring several gigabytes of GPU libraries; for a small image name PyTorch's CPU index (see the
# PyTorch site): docker build -t lethe --build-arg PIP_EXTRA_INDEX_URL=… .
FROM python:3.12-slim
ARG PIP_EXTRA_INDEX_URL
ENV PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY lethe lethe
COPY presets presets
COPY docs docs
COPY measured measured
RUN pip install --no-cache-dir -c constraints.txt ".[report]" && rm -rf /source/* && useradd --create-home lethe
USER lethe
WORKDIR /work
ENTRYPOINT ["lethe"]
CMD ["--help"]
