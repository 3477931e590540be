# The demo:   docker build -t alignbench . && docker run --rm -it -v "$PWD:/work" alignbench
# A command:  docker run --rm -it -v "$PWD:/work" alignbench compare BASE ALIGNED
# With CUDA:  docker build --target cuda -t alignbench:cuda . && docker run --rm -it --gpus all -v "$PWD:/work" alignbench:cuda evaluate …
# `--user "$(id -u):$(id -g)"` writes files of your user, `-e HF_HOME=/work/.cache` keeps downloads.
FROM python:3.12-slim AS base
RUN pip install --no-cache-dir uv==0.13.8
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE constraints.txt constraints-vllm.txt ./
COPY alignbench alignbench
COPY trainers trainers
COPY reports reports
COPY data_cards data_cards
ENV HOME=/tmp

# torch with CUDA, and vLLM. The compiler is for kernels that are compiled at run time.
FROM base AS cuda
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/* \
    && uv pip install --system --no-cache --constraint constraints-vllm.txt ".[train,vllm]"
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["alignbench"]
CMD ["demo"]

# The last stage is what `docker build` makes by default.
FROM base AS cpu
RUN uv pip install --system --no-cache --torch-backend cpu --constraint constraints.txt ".[train,labels]"
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["alignbench"]
CMD ["demo"]
