# The project with its packages; DEVICE is cpu, gpu or tpu (scripts/environment.sh). docs/container.md says how to use it.
FROM debian:bookworm-20250520-slim
ARG DEVICE=cpu
RUN apt-get update && \
    apt-get install -y --no-install-recommends ca-certificates python3 python3-venv && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --create-home --uid 1000 --user-group trainer && \
    install -d -o trainer -g trainer /opt/trainer /workdir
WORKDIR /opt/trainer
USER 1000:1000
ENV TRAINER_DEVICE=$DEVICE PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
# What the NVIDIA container toolkit looks for; without it they do nothing.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# The packages come first: they are gigabytes, and change less often than the project.
COPY --chown=1000:1000 setup.cfg pyproject.toml README.md LICENSE NOTICE ./
COPY --chown=1000:1000 requirements requirements
COPY --chown=1000:1000 scripts/environment.sh scripts/
COPY --chown=1000:1000 trainer/__init__.py trainer/
RUN bash -c 'set -euo pipefail; source scripts/environment.sh; prepare_environment run; rm .venv/install.log'
# For a work directory in a bucket: gs://BUCKET/RUN. The pins of tpu.txt are those of the others, and more.
RUN .venv/bin/python -m pip --disable-pip-version-check --no-input install --constraint requirements/tpu.txt gcsfs
COPY --chown=1000:1000 scripts scripts
COPY --chown=1000:1000 configs configs
COPY --chown=1000:1000 trainer trainer
VOLUME /workdir
HEALTHCHECK --interval=60s --timeout=20s --retries=3 CMD ["scripts/healthy"]
ENTRYPOINT ["scripts/supervise", "--"]
CMD ["--config=configs/digits_cnn.py", "--workdir=/workdir/digits_cnn"]
