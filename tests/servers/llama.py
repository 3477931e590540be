"""`python llama.py CHECKPOINT PORT [CONTEXT [SLOTS]]`: a llama.cpp server (xllamacpp) of a Llama checkpoint in float32.

Runs in an environment of its own (constraints-llama.txt). The checkpoint is first written as GGUF beside its weights.
"""

import json
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import xllamacpp
from safetensors.numpy import load_file

LAYER = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
LAYER |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
LAYER |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
OTHER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
OTHER |= {"lm_head.weight": "output.weight"}
ROTARY = ("self_attn.q_proj", "self_attn.k_proj")


def convert(checkpoint: Path) -> Path:
    """Write CHECKPOINT/model.gguf: float32 weights, and the byte-level BPE tokenizer."""
    config = json.loads((checkpoint / "config.json").read_text())
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    heads = {ROTARY[0]: config["num_attention_heads"], ROTARY[1]: config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(checkpoint / "model.gguf", "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads[ROTARY[0]])
    writer.add_head_count_kv(heads[ROTARY[1]])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda entry: entry[1])
    special = {token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    writer.add_token_types([kinds[number in special] for _, number in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(True)
    if (template := checkpoint / "chat_template.jinja").is_file():
        writer.add_chat_template(template.read_text())
    for name, value in load_file(checkpoint / "model.safetensors").items():
        if name not in OTHER:
            _, _, layer, *inner, _ = name.split(".")
            part = ".".join(inner)
            if part in ROTARY:  # llama.cpp rotates neighbouring dimensions, transformers the two halves
                halves = value.reshape(heads[part], 2, value.shape[0] // heads[part] // 2, *value.shape[1:])
                value = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(value.shape))
        writer.add_tensor(OTHER.get(name) or f"blk.{layer}.{LAYER[part]}.weight", value.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return checkpoint / "model.gguf"


checkpoint, port, context, slots = Path(sys.argv[1]), int(sys.argv[2]), *map(int, [*sys.argv[3:], 2048, 2][:2])
parameters = xllamacpp.CommonParams()
parameters.model.path = str(convert(checkpoint))
parameters.hostnames, parameters.port = ["127.0.0.1"], port
parameters.n_ctx, parameters.n_parallel, parameters.warmup = context, slots, False
parameters.cpuparams.n_threads = 1
parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
while True:
    time.sleep(60)
