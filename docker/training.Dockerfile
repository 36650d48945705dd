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
RUN python -m venv /opt/build && \
    python -m venv --without-pip /opt/retort
COPY docker/build.lock docker/training.lock constraints.txt ./
# Every wheel is held to its sum, and nothing is built from source (docker/renew.py writes the locks).
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/python -m pip install --require-hashes --only-binary :all: --requirement build.lock && \
    /opt/build/bin/python -m pip --python /opt/retort/bin/python \
        install --require-hashes --only-binary :all: --requirement training.lock
# torch alone is held to its version and not to a sum: which build it is, for CPUs or CUDA, is said by the index.
# What it needs of others is there already, but for the libraries of a CUDA build.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/python -m pip --python /opt/retort/bin/python \
        install --only-binary :all: --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY service/ service/
COPY training/ training/
RUN /opt/build/bin/python -m pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . && \
    /opt/build/bin/python -m pip --python /opt/retort/bin/python install --no-index --no-deps dist/retort-*.whl && \
    /opt/build/bin/python -m pip --python /opt/retort/bin/python check

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
