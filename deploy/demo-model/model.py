"""The network in PyTorch: a Llama with grouped-query attention, as it is trained; evaluate.py has its own forward pass."""
import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "use_cache": True,
    "torch_dtype": "bfloat16",
}


def rope_tables(length, head_dim, theta):
    """Cosine and sine per position, in the rotate-half layout of Hugging Face checkpoints."""
    inverse = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), inverse)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        hidden, ffn = c["hidden_size"], c["intermediate_size"]
        self.q_size, self.kv_size = self.heads * self.dim, self.kv_heads * self.dim
        self.norm1 = nn.RMSNorm(hidden, eps=c["rms_norm_eps"])
        self.norm2 = nn.RMSNorm(hidden, eps=c["rms_norm_eps"])
        self.qkv = nn.Linear(hidden, self.q_size + 2 * self.kv_size, bias=False)
        self.out = nn.Linear(self.q_size, hidden, bias=False)
        self.gate_up = nn.Linear(hidden, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, hidden, bias=False)

    def attend(self, q, k, v, mask):
        """Plain matrix products: on a CPU in bfloat16 they beat the fused kernel at these lengths."""
        group = self.heads // self.kv_heads
        b, _, t, d = q.shape
        q = (q * d ** -0.5).reshape(b, self.kv_heads, group * t, d)
        scores = torch.matmul(q, k.transpose(-1, -2)).view(b, self.kv_heads, group, t, t) + mask
        return torch.matmul(torch.softmax(scores, dim=-1).view(b, self.kv_heads, group * t, t), v).view(b, self.heads, t, d)

    def forward(self, x, cos, sin, mask):
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        q = rotate(q.view(b, t, self.heads, self.dim).transpose(1, 2), cos, sin)
        k = rotate(k.view(b, t, self.kv_heads, self.dim).transpose(1, 2), cos, sin)
        v = v.view(b, t, self.kv_heads, self.dim).transpose(1, 2)
        x = x + self.out(self.attend(q, k, v, mask).transpose(1, 2).reshape(b, t, self.q_size))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        self.embed = nn.Embedding(config["vocab_size"], hidden)
        self.blocks = nn.ModuleList(Block(config) for _ in range(layers))
        self.norm = nn.RMSNorm(hidden, eps=config["rms_norm_eps"])
        cos, sin = rope_tables(config["max_position_embeddings"], config["head_dim"], config["rope_theta"])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        for block in self.blocks:
            for linear in (block.qkv, block.gate_up):
                nn.init.normal_(linear.weight, std=hidden ** -0.5)
            for linear in (block.out, block.down):
                nn.init.normal_(linear.weight, std=(2 * layers * linear.in_features) ** -0.5)

    def forward(self, ids):
        """Hidden states after the last norm, [batch, length, hidden]."""
        t = ids.shape[1]
        x = self.embed(ids)
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        mask = torch.full((t, t), float("-inf")).triu(1).to(kind)
        cos, sin = self.cos[:t].to(kind), self.sin[:t].to(kind)
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return self.norm(x)

    def logits(self, ids):
        return F.linear(self.forward(ids), self.embed.weight)

    def to_hf(self):
        """Weights under the names and shapes of a Hugging Face Llama checkpoint."""
        out = {"model.embed_tokens.weight": self.embed.weight, "model.norm.weight": self.norm.weight}
        for i, b in enumerate(self.blocks):
            p = f"model.layers.{i}."
            q, k, v = b.qkv.weight.split([b.q_size, b.kv_size, b.kv_size])
            gate, up = b.gate_up.weight.chunk(2)
            out |= {p + "self_attn.q_proj.weight": q, p + "self_attn.k_proj.weight": k, p + "self_attn.v_proj.weight": v,
                    p + "self_attn.o_proj.weight": b.out.weight, p + "mlp.gate_proj.weight": gate, p + "mlp.up_proj.weight": up,
                    p + "mlp.down_proj.weight": b.down.weight, p + "input_layernorm.weight": b.norm1.weight,
                    p + "post_attention_layernorm.weight": b.norm2.weight}
        return {name: tensor.detach().clone() for name, tensor in out.items()}
