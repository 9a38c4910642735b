# The artifact as an image: `docker run --gpus all IMAGE smoke`. torch brings its own CUDA libraries, and the driver's come
# from the machine that runs it, so the base is Debian 12 alone, whose Python, 3.11, is the one that .ci/run tests.
# Another base of Debian or Ubuntu: --build-arg BASE_IMAGE=... (its Python must be 3.11, 3.12 or 3.13). Not built here.
# The repository's address for the image's label: --build-arg SOURCE=...
# torch's default build needs NVIDIA driver 580 or newer. For an older driver take torch's build for CUDA 12.6 (driver 525 or
# newer): --build-arg TORCH_INDEX=ADDRESS, where ADDRESS is the package index that torch's installation page names for it.
# Every package is installed by version and sha256. pip resolves the pins when the image is built, or takes the file
# requirements.txt beside this one: the image carries its own in /opt/kloc/share/parts, to be built again from it.
# Two builds from one base and one requirements.txt give equal files: those made here have one time, compiled Python none,
# and logs and caches with times inside are emptied. The engine itself puts the time of the build on a few folders (/etc,
# /opt/kloc) and on the image. For equal layers, build with `--output type=image,rewrite-timestamp=true` and --build-arg
# SOURCE_DATE_EPOCH=..., or with `buildah build --timestamp ...`, as .ci/equal_images does twice. The distribution's own
# packages are those of the day of the build.
ARG SOURCE=
ARG SOURCE_DATE_EPOCH=1795651200
ARG BASE_IMAGE=debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171
ARG TORCH_INDEX=

FROM ${BASE_IMAGE} AS system
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

FROM system AS build
ARG TORCH_INDEX
ARG SOURCE_DATE_EPOCH
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The list of the distribution's packages is that of the image, which is built without python3-venv.
# hadolint ignore=DL3008
RUN dpkg-query --show >/system.tsv \
    && apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
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
    && /opt/kloc/bin/python release/parts.py /opt/kloc/share/parts --system /system.tsv packages.json package.json \
    && cp -r pyproject.toml tests results/example-world /opt/kloc/share/
# Compiled files hold no time: those that pip would make, or Python itself on its way (-f), hold that of their source.
RUN find /opt/kloc -name __pycache__ -prune -exec rm -rf {} + \
    && { /opt/kloc/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /opt/kloc/lib || true; } \
    && find /opt/kloc -exec touch -h -d "@${SOURCE_DATE_EPOCH}" {} +

FROM system
ARG SOURCE
COPY --from=build /opt/kloc /opt/kloc
# The two for NVIDIA are those of its own images: GPUs as given by --gpus, and what of the driver is needed.
ENV PATH=/opt/kloc/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
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
