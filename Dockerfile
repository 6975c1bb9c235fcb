# Orderflow: docker build -t orderflow .
# requirements.lock has every installed package with its hash; `make lock` updates it.

FROM python:3.13-slim AS build

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

COPY requirements.lock /tmp/
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv install --require-hashes --only-binary=:all: -r /tmp/requirements.lock

WORKDIR /srv/orderflow
COPY gunicorn.conf.py ./
COPY app app
# The command, as pip would install it.
RUN printf '#!/opt/venv/bin/python\nimport sys\nsys.path.insert(0, "/srv/orderflow")\nfrom app.__main__ import main\nmain()\n' \
      > /opt/venv/bin/orderflow \
 && chmod 555 /opt/venv/bin/orderflow
# Readable for all users, whatever the umask of the checkout; writable for none.
RUN /opt/venv/bin/python -m compileall -q . && chmod -R a=rX .


FROM python:3.13-slim

ARG REVISION=unknown
LABEL org.opencontainers.image.title="orderflow" \
      org.opencontainers.image.description="Orders and their payments: none lost, none stuck, none charged twice." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim"

# A fixed id, because volumes store owners as numbers; deploy/mongo/make-secrets has the same one.
RUN groupadd --gid 10001 orderflow \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin orderflow

COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/orderflow /srv/orderflow

# It writes only to /tmp and /dev/shm, so it runs with --read-only --tmpfs /tmp. It listens on all addresses and cannot see where
# it is published: it starts only with AUTH_JWT_…, or with PUBLISHED_ON set to an address that only this machine reaches.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BIND=0.0.0.0 \
    PORT=7000

WORKDIR /srv/orderflow
USER 10001:10001
EXPOSE 7000
STOPSIGNAL SIGTERM

# Healthy means that it can serve: /readyz checks the database too. Where unhealthy containers are killed (Swarm, a
# livenessProbe of Kubernetes) use /healthz instead: a restart does not repair a database.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]

CMD ["orderflow", "run"]
