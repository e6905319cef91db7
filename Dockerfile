# fastroute in a container: built in one stage, run in another one without compiler, as a user without rights.
#   docker build -t fastroute . && docker run --rm fastroute version
# The configuration is /etc/fastroute/fastroute.toml; examples/deploy/compose.yaml shows two replicas.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN python -m venv /opt/fastroute \
 && /opt/fastroute/bin/pip install --no-cache-dir "setuptools>=77" "cython>=3.1" wheel \
 && /opt/fastroute/bin/pip install --no-cache-dir --no-build-isolation . \
 && /opt/fastroute/bin/pip uninstall -y cython wheel

FROM python:${PYTHON}
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin fastroute
COPY --from=build /opt/fastroute /opt/fastroute
ENV PATH=/opt/fastroute/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
# The zone is in /dev/shm: give the container at least its size (--shm-size, `shm_size`), 64 MiB by default, and a little.
EXPOSE 8080 9900
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9900/healthz', timeout=2)"]
ENTRYPOINT ["fastroute"]
CMD ["serve", "-c", "/etc/fastroute/fastroute.toml", "--log-format", "json"]
