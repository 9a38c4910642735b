# The artifact as an image: `docker run --gpus all IMAGE smoke`. torch brings its own CUDA libraries, so the base needs the
# driver interface alone. Works on Ubuntu 24.04 and Debian 12 bases: --build-arg BASE_IMAGE=...
# The repository's address for the image's label: --build-arg SOURCE=...
# torch's default build needs NVIDIA driver 580 or newer. For an older driver take torch's build for CUDA 12.6 (driver 525 or
# newer): --build-arg TORCH_INDEX=ADDRESS --build-arg BASE_IMAGE=nvidia/cuda:12.6.3-base-ubuntu24.04, where ADDRESS is the
# package index that torch's installation page names for that CUDA.
# The default base is Ubuntu 24.04, whose Python is 3.12. It is pinned by its tag; to pin it by digest, give
# --build-arg BASE_IMAGE=nvidia/cuda@sha256:... as your registry names it.
# Every package is installed by version and sha256. pip resolves the pins when the image is built, or takes the file
# requirements.txt beside this one: the image carries its own in /opt/kloc/share/parts, to be built again from it.
# Two builds from one base and one requirements.txt give equal files: those made here have one time, compiled Python none,
# and logs and caches with times inside are emptied. The engine itself puts the time of the build on a few folders (/etc,
# /opt/kloc) and on the image. For equal layers, build with `--output type=image,rewrite-timestamp=true` and --build-arg
# SOURCE_DATE_EPOCH=..., or with `buildah build --timestamp ...`, as .ci/equal_images does twice. The distribution's own
# packages are those of the day of the build.
ARG SOURCE=
ARG SOURCE_DATE_EPOCH=1795651200
ARG BASE_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04
ARG TORCH_INDEX=

FROM ${BASE_IMAGE} AS build
ARG TORCH_INDEX
ARG SOURCE_DATE_EPOCH
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/kloc
WORKDIR /src
# requirements.txt is copied only if it is there.
COPY pyproject.toml constraints.txt README.md LICENSE requirements.tx[t] ./
COPY artifact artifact
COPY paper paper
COPY expected expected
COPY tests tests
COPY results/example-world results/example-world
COPY release/parts.py release/parts.py
# With what builds this package, and what the tests of the embedded world need: so the image can show that it works.
# The local version of another build of torch (2.13.0+cu126) satisfies the pin and is preferred.
RUN if [ ! -f requirements.txt ]; then \
        /opt/kloc/bin/pip install --dry-run --ignore-installed --report resolved.json -c constraints.txt \
            ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} . hatchling pytest pytest-timeout hypothesis \
        && /opt/kloc/bin/python release/parts.py . resolved.json; \
    fi
# What was installed, by version and sha256: share/parts, as requirements, SPDX and licences.
RUN /opt/kloc/bin/pip install --no-compile --require-hashes --report packages.json \
        ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} -r requirements.txt \
    && /opt/kloc/bin/pip install --no-compile --no-deps --no-build-isolation --report package.json . \
    && install -d /opt/kloc/share \
    && /opt/kloc/bin/python release/parts.py /opt/kloc/share/parts packages.json package.json \
    && cp -r pyproject.toml tests results/example-world /opt/kloc/share/
# Compiled files hold no time: those that pip would make, or Python itself on its way (-f), hold that of their source.
RUN find /opt/kloc -name __pycache__ -prune -exec rm -rf {} + \
    && { /opt/kloc/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /opt/kloc/lib || true; } \
    && find /opt/kloc -exec touch -h -d "@${SOURCE_DATE_EPOCH}" {} +

FROM ${BASE_IMAGE}
ARG SOURCE
ARG SOURCE_DATE_EPOCH
ENV DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008,DL3009
RUN touch /tmp/begin \
    && apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && find /var/lib/apt/lists -type f ! -name lock -delete \
    && rm -f /var/cache/apt/*.bin /var/cache/ldconfig/aux-cache \
    && groupadd --gid 10001 kloc \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin kloc \
    && install -d -o 10001 -g 10001 /cache /results \
    && install -d /opt/kloc \
    && find /var/log -type f -newer /tmp/begin -exec truncate -s 0 {} + \
    && find / -xdev -newer /tmp/begin ! -path '/proc*' ! -path '/sys*' ! -path '/dev*' \
        -exec touch -h -d "@${SOURCE_DATE_EPOCH}" {} + \
    && rm /tmp/begin \
    && touch -d "@${SOURCE_DATE_EPOCH}" /tmp
COPY --from=build /opt/kloc /opt/kloc
ENV PATH=/opt/kloc/bin:$PATH \
    HF_HOME=/cache \
    KLOC_CACHE=/cache/kloc \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="kloc-artifact" \
      org.opencontainers.image.description="Reproduction artifact for 'Does Knowledge Localization Hold True?' (CIKM 2024)" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="0.1.0"
VOLUME ["/cache", "/results"]
# Runs go to results/<run> below the working folder, that is to the volume /results.
WORKDIR /
USER 10001
ENTRYPOINT ["kloc"]
CMD ["--help"]
