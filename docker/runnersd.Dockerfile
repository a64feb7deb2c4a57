# `runnersd` and `runners-client` in an image. docker/compose.yml says how to run it, and docs/administration.md what
# that can and cannot do.
#
#     docker build --tag runnersd --file docker/runnersd.Dockerfile .

ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
ARG PIP_INDEX_URL
RUN export DEBIAN_FRONTEND=noninteractive \
    && apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && apt-get clean && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/runners
WORKDIR /src
COPY setup.cfg pyproject.toml requirements.lock README.md LICENSE ./
COPY client client
COPY scheduler scheduler
RUN /opt/runners/bin/pip install --no-cache-dir --constraint requirements.lock '.[daemon,terminal]'

FROM ${BASE}
RUN export DEBIAN_FRONTEND=noninteractive \
    && apt-get update \
    && apt-get install --yes --no-install-recommends busybox-static ca-certificates python3 \
    && apt-get clean && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/runners /opt/runners
ENV PATH=/opt/runners/bin:$PATH LANG=C.UTF-8
# A daemon that has hung is restarted by whoever restarts unhealthy containers; Docker itself only shows it.
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m \
    CMD ["python", "-c", "from runners.client import Client; Client('/run/runners/runnersd.sock', timeout=8).health()"]
CMD ["runnersd"]
