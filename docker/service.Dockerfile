# The service: no torch, no compiler, no root. Alone it starts its embedded store in /data; RETORT_REDIS_URL uses yours.
#
#   docker build -f docker/service.Dockerfile -t retort .
#   docker run --rm --init --read-only --cap-drop ALL -p 127.0.0.1:8000:8000 \
#     -v "$PWD/.demo/run/bundle:/bundle:ro" -v retort-data:/data -e RETORT_API_KEYS=choose-a-long-random-key retort

FROM python:3.11-slim-bookworm AS build
# pip's own settings, given with --build-arg; what is not declared here never reaches pip.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
WORKDIR /src
# The image itself gets neither pip nor setuptools: they stay in /opt/build.
RUN python -m venv /opt/build && \
    python -m venv --without-pip /opt/retort
COPY docker/build.lock docker/service.lock ./
# Every wheel is held to its sum, and nothing is built from source (docker/renew.py writes the locks).
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/python -m pip install --require-hashes --only-binary :all: --requirement build.lock && \
    /opt/build/bin/python -m pip --python /opt/retort/bin/python \
        install --require-hashes --only-binary :all: --requirement service.lock
COPY pyproject.toml README.md LICENSE ./
COPY service/ service/
COPY training/ training/
RUN /opt/build/bin/python -m pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . && \
    /opt/build/bin/python -m pip --python /opt/retort/bin/python install --no-index --no-deps dist/retort-*.whl && \
    /opt/build/bin/python -m pip --python /opt/retort/bin/python check

FROM python:3.11-slim-bookworm
# A numeric user, so that an orchestrator can see that it is not root; /data is the only place that it writes to.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=build /opt/retort /opt/retort
# It listens on every address of the container, and therefore refuses to start without RETORT_API_KEYS.
ENV PATH=/opt/retort/bin:$PATH \
    HOME=/data \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RETORT_HOST=0.0.0.0 \
    RETORT_PORT=8000 \
    RETORT_BUNDLE=/bundle \
    RETORT_DATA_DIR=/data
VOLUME /data
WORKDIR /data
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; p = os.environ.get('RETORT_PORT', ''); r.urlopen('http://127.0.0.1:' + (p if p.isdigit() else '8000') + '/livez', timeout=2)"]
ENTRYPOINT ["retort"]
CMD ["serve"]
