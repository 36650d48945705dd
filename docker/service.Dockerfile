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
RUN python -m venv /opt/retort
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service/ service/
COPY training/ training/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/retort/bin/python -m pip install --constraint constraints.txt '.[embedded]'

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
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['RETORT_PORT'] + '/livez', timeout=2)"]
ENTRYPOINT ["retort"]
CMD ["serve"]
