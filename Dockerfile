# syntax=docker/dockerfile:1
# Two stages: packages are installed from the hashed lock where a compiler may be needed, and only
# the virtual environment and the code go into the image that runs.

FROM python:3.13-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update \
 && apt-get install --yes --no-install-recommends build-essential libffi-dev pkg-config \
 && rm -rf /var/lib/apt/lists/*
COPY requirements.lock /build/requirements.lock
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --require-hashes -r /build/requirements.lock

FROM python:3.13-slim
LABEL org.opencontainers.image.title="contract-deploy-listener" \
      org.opencontainers.image.licenses="MIT"
# The names saga, states and adapters belong to other projects on the public index: PYTHONPATH puts
# ours before anything that is installed.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin saga
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY saga /app/saga
COPY states /app/states
COPY adapters /app/adapters
COPY contracts/artifacts /app/contracts/artifacts
USER 10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
  CMD ["python", "-c", "import os,urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('HTTP_PORT', '8080')}/live\", timeout=2)"]
ENTRYPOINT ["python", "-m", "saga"]
CMD ["run"]
