# docker build -t kforecast .
# docker run --rm --read-only --tmpfs /tmp -v kforecast:/data kforecast kforecast-train source=synthetic
# Every command is on the PATH; without one the image says what kforecast-train takes (docs/deploy.md).
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
# Where builds of torch for CPUs are; what PyPI has is several GB larger.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Of pyproject.toml, like holidays,onnx.
ARG EXTRAS=holidays
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_CONSTRAINT=/src/constraints.txt
WORKDIR /src
COPY constraints.txt constraints.lock deploy/check_hashes.py ./
# Only what is needed to find out what is installed, so that a change of the code downloads nothing anew.
COPY pyproject.toml README.md LICENSE ./
COPY src/kforecast/__init__.py src/kforecast/
COPY conf conf
RUN pip download --quiet --no-deps --dest /files --index-url "${TORCH_INDEX}" torch \
 && pip wheel --quiet --no-deps --wheel-dir /metadata . \
 && pip download --quiet --dest /files --find-links /files "$(ls /metadata/kforecast-*.whl)[${EXTRAS}]" \
 && rm /files/kforecast-*.whl \
 && python check_hashes.py constraints.lock /files torch
RUN python -m venv /opt/kforecast \
 && /opt/kforecast/bin/pip install --quiet --no-index --find-links /files --no-build-isolation --no-deps \
    /files/setuptools-*.whl \
 && /opt/kforecast/bin/pip install --quiet --no-index --find-links /files --use-pep517 --no-build-isolation \
    --no-deps /files/*
COPY src src
RUN pip wheel --quiet --no-deps --wheel-dir /dist . \
 && /opt/kforecast/bin/pip install --quiet --no-index --no-deps /dist/kforecast-*.whl \
 && /opt/kforecast/bin/pip check \
 && rm -r /opt/kforecast/lib/python3*/site-packages/pip /opt/kforecast/lib/python3*/site-packages/pip-*

FROM ${PYTHON}
LABEL org.opencontainers.image.title="kforecast" \
      org.opencontainers.image.description="Train traffic forecasters for autoscaling" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/kforecast /opt/kforecast
# The root file system may be read-only: caches go to /tmp, everything else below /data or where keys say.
ENV PATH=/opt/kforecast/bin:${PATH} \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib TORCHINDUCTOR_CACHE_DIR=/tmp/torch
WORKDIR /data
RUN chown 10001:10001 /data
# A number, so that runAsNonRoot can be checked.
USER 10001:10001
# The commands end by themselves at SIGTERM, as process 1 too (docs/reliability.md).
STOPSIGNAL SIGTERM
CMD ["kforecast-train", "--help"]
