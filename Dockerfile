# syntax=docker/dockerfile:1
# What runs in the end is Python, the locked requirements and the exporter: nothing that installs, builds or is root.
FROM python:3.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# Requirements before code: they change less often, so their layer is mostly reused.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/tempo-anomaly-exporter \
    && python -m pip --python /opt/tempo-anomaly-exporter install --require-hashes --requirement requirements.lock \
    && python -m pip install --require-hashes --requirement requirements-build.lock
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY exporter exporter
# sqlite-utils depends on pip for a command that the exporter does not use.
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && python -m pip --python /opt/tempo-anomaly-exporter install --no-deps dist/*.whl \
    && python -m pip --python /opt/tempo-anomaly-exporter uninstall --yes pip

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="tempo-anomaly-exporter" \
      org.opencontainers.image.description="Tells Prometheus which endpoints in Grafana Tempo are slower than usual for this hour, by how much, and why." \
      org.opencontainers.image.licenses="MIT"
ARG VERSION=""
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
RUN python -m pip uninstall --yes pip \
    && install --directory --owner=65532 --group=65532 --mode=0750 /var/lib/tempo-anomaly-exporter
COPY --from=build /opt/tempo-anomaly-exporter /opt/tempo-anomaly-exporter
COPY configs/exporter.yaml /etc/tempo-anomaly-exporter/exporter.yaml
ENV PATH="/opt/tempo-anomaly-exporter/bin:${PATH}" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    STORAGE_PATH=/var/lib/tempo-anomaly-exporter/tempo-anomaly.db
# A number, so that Kubernetes can tell that it is not root.
USER 65532:65532
WORKDIR /var/lib/tempo-anomaly-exporter
# The only directory that is written to, besides /tmp for answers that a slow client has not read yet.
VOLUME ["/var/lib/tempo-anomaly-exporter"]
EXPOSE 9817
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-m", "exporter.cli.healthcheck", "--config", "/etc/tempo-anomaly-exporter/exporter.yaml"]
ENTRYPOINT ["tempo-anomaly-exporter"]
CMD ["--config", "/etc/tempo-anomaly-exporter/exporter.yaml"]
