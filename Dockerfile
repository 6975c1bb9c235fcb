# Orderflow: docker build -t orderflow .
# Everything installed is named with its hash in requirements.lock; `make lock` renews it.

FROM python:3.13-slim AS build

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

COPY requirements.lock /tmp/
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv install --require-hashes --only-binary=:all: -r /tmp/requirements.lock

WORKDIR /srv/orderflow
COPY gunicorn.conf.py ./
COPY app app
# Readable for all, whatever the umask of the checkout; writable for none.
RUN /opt/venv/bin/python -m compileall -q . && chmod -R a=rX .


FROM python:3.13-slim

ARG REVISION=unknown
LABEL org.opencontainers.image.title="orderflow" \
      org.opencontainers.image.description="Orders and their payments: none lost, none stuck, none charged twice." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim"

# A fixed id, because volumes know owners by number: deploy/mongo/make-secrets names it too.
RUN groupadd --gid 10001 orderflow \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin orderflow

COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/orderflow /srv/orderflow

# Writes go to /tmp and /dev/shm alone, so it runs with --read-only --tmpfs /tmp. It listens on all addresses and cannot see
# where it is published: it starts with AUTH_JWT_… set, or with PUBLISHED_ON naming an address of this machine alone.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BIND=0.0.0.0 \
    PORT=7000

WORKDIR /srv/orderflow
USER 10001:10001
EXPOSE 7000
STOPSIGNAL SIGTERM

# Healthy means that it can serve, so /readyz, which asks the database too. Where the unhealthy are killed (Swarm,
# a livenessProbe of Kubernetes) ask /healthz instead: a restart does not mend a database.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]

CMD ["gunicorn", "-c", "gunicorn.conf.py"]
