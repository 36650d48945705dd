# Training: a batch job that reads /input and writes a run directory under /output. No port, no health to check.
# Elsewhere a plain torch is the CUDA build, some gigabytes: for CPUs, name the index of the CPU builds.
#
#   docker build -f docker/training.Dockerfile -t retort-training --build-arg PIP_EXTRA_INDEX_URL=... .
#   docker run --rm --init --user "$(id -u):$(id -g)" -v "$PWD/data:/input:ro" -v "$PWD/runs:/output" retort-training \
#     run --interactions /input/interactions.csv --out /output/first

FROM python:3.11-slim-bookworm AS build
# pip's own settings, given with --build-arg; what is not declared here never reaches pip.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
WORKDIR /src
RUN python -m venv /opt/retort
COPY constraints.txt ./
# A layer of its own: the large one changes only with its pin.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/retort/bin/python -m pip install --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY service/ service/
COPY training/ training/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/retort/bin/python -m pip install --constraint constraints.txt '.[train]'

FROM python:3.11-slim-bookworm
RUN install --directory --owner=10001 --group=10001 /input /output
COPY --from=build /opt/retort /opt/retort
# Whoever --user names has no home: caches go to /tmp.
ENV PATH=/opt/retort/bin:$PATH \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /output
USER 10001:10001
STOPSIGNAL SIGINT
HEALTHCHECK NONE
ENTRYPOINT ["retort-train"]
CMD ["--help"]
