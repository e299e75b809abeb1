# anyport as an image: the locked packages and anyport itself, compiled; no compiler, not as root.

FROM python:3.11 AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src

# Packages first: this layer stays as long as the lock file does.
COPY requirements.lock requirements-dev.lock ./
RUN python -m venv --without-pip /opt/anyport \
    && pip --python /opt/anyport/bin/python install --require-hashes --only-binary :all: -r requirements.lock

# What builds, at the versions and hashes of the development lock; it is not shipped.
RUN awk '/^(cython|setuptools)==/ {on = 1} on {print} on && !/\\$/ {on = 0}' requirements-dev.lock > build.lock \
    && pip install --require-hashes --only-binary :all: -r build.lock

COPY pyproject.toml setup.py README.md ./
COPY proxy proxy
COPY discovery discovery
# Without the compiled hot path this fails: an image must not be slower than it says.
RUN ANYPORT_REQUIRE_ALL=1 pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && pip --python /opt/anyport/bin/python install --no-deps --no-index /dist/*.whl


FROM python:3.11-slim
LABEL org.opencontainers.image.title="anyport" \
      org.opencontainers.image.description="Reverse proxy for Amazon ECS: one fixed port in front, any port behind."
COPY --from=build /opt/anyport /opt/anyport
ENV PATH=/opt/anyport/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# Where [state] path may lead: a Docker volume that is mounted here is ours from its first use.
RUN mkdir -m 0700 /var/lib/anyport && chown 65532:65532 /var/lib/anyport

# A config.toml mounted here is found; without one, ANYPORT_... variables say everything.
WORKDIR /etc/anyport

# By number, so that a host without this user and `runAsNonRoot` both understand it.
USER 65532:65532
EXPOSE 8080 9180
STOPSIGNAL SIGTERM

# For `docker run`. Amazon ECS ignores this line: deploy/task-definition.json has its own `healthCheck`.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 CMD ["anyport", "healthcheck"]

# `linger` as the command makes the sidecar of it that deploy/app-with-linger.json shows.
ENTRYPOINT ["anyport"]
CMD ["run"]
