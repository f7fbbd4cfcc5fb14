# docker build -t kforecast .
# docker run --rm --read-only --tmpfs /tmp -v kforecast:/data kforecast kforecast-train source=synthetic
# Every command is on the PATH; without one the image says what kforecast-train takes (docs/deploy.md).
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
# Of pyproject.toml, separated by blanks, like "holidays onnx".
ARG EXTRAS=holidays
# A folder or an address where pip looks for torch's build for CPUs before it is taken from PyTorch.
ARG PIP_FIND_LINKS=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/kforecast
WORKDIR /src
COPY constraints.txt deploy/install_torch.sh ./
RUN pip install --quiet -c constraints.txt uv \
 && python -m venv /opt/kforecast \
 && UV=uv PYTHON=/opt/kforecast/bin/python sh install_torch.sh "$(sed -n 's/^torch==//p' constraints.txt)"
# Only what decides on the packages, so that a change of the code downloads nothing anew.
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --quiet --locked --inexact --no-install-project --group torch $(printf -- '--extra %s ' ${EXTRAS})
COPY src src
COPY conf conf
RUN uv sync --quiet --locked --inexact --no-editable --group torch $(printf -- '--extra %s ' ${EXTRAS}) \
      --compile-bytecode \
 && uv pip check --python /opt/kforecast \
 && cd /opt/kforecast/lib/python3*/site-packages \
 && rm -r pip pip-* torch/include pyarrow/include pandas/tests

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
