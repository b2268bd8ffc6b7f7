"""Tiny models of many architectures of Transformers, with inputs for each."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import transformers
from packaging.version import Version
from tiny_models import BERT, LLAMA, SIZES, make
from transformers import PreTrainedModel

OLD = Version(transformers.__version__) < Version("5.23")
NEEDS_EAGER = {"beit", "gemma2", "nemotron", "t5gemma", "vaultgemma"} if OLD else set()
"""Those whose default attention implementation computes another output, or is a class that tells no weights."""
SHAPES = {"vision": (3, 32, 32), "audio": (320,), "speech2text": (8, 24)}


def counted_version() -> str:
    """Return the version of Transformers whose architectures the README counts; others may have more or fewer."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    return re.search(r"architectures of Transformers (\d+\.\d+) ", readme).group(1)


def is_counted() -> bool:
    """Return whether that is the version at hand."""
    return Version(transformers.__version__).release[:2] == Version(counted_version()).release


@dataclass(frozen=True)
class Architecture:
    """A tiny model: its classes in Transformers, the options of its config, and the kind and shape of its inputs.

    Of the versions 5.0.0 and 5.23.0 of Transformers, `since` is the first that builds and runs it. One that takes no
    padding fails on it, by an error of Transformers, so that its inputs have none.
    """

    name: str
    config: str
    model: str
    options: dict = field(hash=False)
    kind: str = "text"
    since: str = "5.0.0"
    shape: tuple[int, ...] = ()
    takes_padding: bool = True

    def build(self, attn_implementation: str | None = None) -> PreTrainedModel:
        options = copy.deepcopy(self.options)
        if self.name in NEEDS_EAGER:
            attn_implementation = attn_implementation or "eager"
        return make(self.config, self.model, attn_implementation=attn_implementation, **options)

    def inputs(self, *, padded: bool = True) -> dict[str, torch.Tensor]:
        """Return a batch of two rows; if it is padded, the last four tokens of the second row are padding."""
        generator = torch.Generator().manual_seed(0)
        draw = partial(torch.randint, 5, SIZES["vocab_size"], generator=generator)
        inputs = {}
        if self.kind in ("text", "seq2seq"):
            inputs["input_ids"] = draw(size=(2, 16))
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            if padded and self.takes_padding:
                inputs["input_ids"][1, -4:] = SIZES["pad_token_id"]
                inputs["attention_mask"][1, -4:] = 0
        else:
            name = getattr(transformers, self.model).main_input_name
            inputs[name] = torch.randn(2, *(self.shape or SHAPES[self.kind]), generator=generator)
        if self.kind in ("seq2seq", "speech2text"):
            inputs["decoder_input_ids"] = draw(size=(2, 7))
        return inputs


def tiny(name: str, prefix: str, base: dict, *, suffix: str = "Model", **more: object) -> Architecture:
    """Return the architecture whose classes share a prefix; what is more is its fields or options of its config."""
    fields = {key: more.pop(key) for key in ("kind", "since", "shape", "takes_padding") if key in more}
    return Architecture(name, f"{prefix}Config", f"{prefix}{suffix}", base | more, **fields)


causal = partial(tiny, suffix="ForCausalLM")
seq2seq = partial(tiny, suffix="ForConditionalGeneration", kind="seq2seq")
speech2text = partial(tiny, suffix="ForConditionalGeneration", kind="speech2text")
vision = partial(tiny, kind="vision")
audio = partial(tiny, kind="audio")

ENCODER = BERT | {"max_position_embeddings": 64}
DEBERTA = ENCODER | {"relative_attention": True, "pos_att_type": "c2p|p2c"}
FUNNEL = {"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48, "block_sizes": [1, 2], "num_decoder_layers": 1}
REFORMER = ENCODER | {"attention_head_size": 8, "attn_layers": ["local", "lsh", "local"]}
REFORMER |= {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "feed_forward_size": 48}
BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "init_std": 0.4, "max_position_embeddings": 64}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
LED = BART | {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64, "attention_window": 8}
SPARSE = {"block_size": 2, "num_random_blocks": 1}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
T5 |= {"initializer_factor": 2.0, "decoder_start_token_id": 0}
LONG_T5 = T5 | {"local_radius": 4, "global_block_size": 4}
PROPHET = {"num_encoder_layers": 3, "num_encoder_attention_heads": 4, "encoder_ffn_dim": 48, "hidden_size": 32}
PROPHET |= {"num_decoder_layers": 3, "num_decoder_attention_heads": 4, "decoder_ffn_dim": 48, "init_std": 0.4}
DECODER = LLAMA | {"bos_token_id": 2, "eos_token_id": 3}
GPT_NEO = DECODER | {"num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local", "global"], 1]]}
HEADS = DECODER | {"head_dim": 8}
WINDOW = HEADS | {"sliding_window": 8}
GEMMA = WINDOW | {
    "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
GEMMA3N = GEMMA | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 25, "num_kv_shared_layers": 1}
GEMMA3N |= {"laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 3}
MODULE = GEMMA | SIZES | {"initializer_range": 0.4}
EXPERTS = HEADS | {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_intermediate_size": 16}
EXPERTS |= {"shared_expert_intermediate_size": 16, "moe_shared_expert_intermediate_size": 16}
EXPERTS |= {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "n_shared_experts": 1}
LATENT = {key: value for key, value in EXPERTS.items() if key != "head_dim"} | {"num_key_value_heads": 4}
LATENT |= {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
LATENT |= {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
LONGCAT = LATENT | {"num_layers": 2, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 16, "head_dim": 4}
LONGCAT |= {"num_hidden_layers": 4, "moe_topk": 2, "zero_expert_num": 2}
LLAMA4 = EXPERTS | {"attention_chunk_size": 8, "intermediate_size_mlp": 48, "no_rope_layer_interval": 2}
DBRX = {"d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 64}
DBRX |= {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}}
DBRX |= {"ffn_config": {"hidden_size": 32, "ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2}}
FOUR = {"num_hidden_layers": 4, "use_mamba_kernels": False}
LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2, "linear_num_key_heads": 2}
LINEAR |= FOUR | {"linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MAMBA = FOUR | {"mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
ZAMBA = DECODER | FOUR | {"n_mamba_heads": 8, "mamba_d_state": 8, "chunk_size": 8}
NEMOTRON_H = EXPERTS | FOUR | {"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1}
NEMOTRON_H |= {"layers_block_type": ["mamba", "attention", "moe", "attention"]}
VISION = BERT | {"image_size": 32, "patch_size": 8}
VIDEO = VISION | {"image_size": 16, "num_frames": 4}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
PYRAMID = {"num_encoder_blocks": 2, "depths": [1, 2], "hidden_sizes": [16, 32], "num_attention_heads": [2, 4]}
PYRAMID |= {"patch_sizes": [4, 2], "strides": [4, 2], "mlp_ratios": [2, 2]}
SPEECH = BERT | {"conv_dim": [16, 16], "conv_kernel": [8, 4], "conv_stride": [4, 4], "num_feat_extract_layers": 2}
SPEECH |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "conv_depthwise_kernel_size": 3}
MOONSHINE = {"hidden_size": 32, "intermediate_size": 48, "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 3}
MOONSHINE |= {"encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4}
WHISPER = BART | {"num_mel_bins": 8, "max_source_positions": 12, "max_target_positions": 16}

ARCHITECTURES = (
    tiny("bert", "Bert", ENCODER),
    tiny("roberta", "Roberta", ENCODER),
    tiny("distilbert", "DistilBert", ENCODER, hidden_dim=48),
    tiny("albert", "Albert", ENCODER, embedding_size=16),
    tiny("electra", "Electra", ENCODER, embedding_size=16),
    tiny("deberta", "Deberta", DEBERTA),
    tiny("deberta-v2", "DebertaV2", DEBERTA, position_buckets=4),
    tiny("mpnet", "MPNet", ENCODER),
    tiny("modernbert", "ModernBert", ENCODER, local_attention=8),
    tiny("eurobert", "EuroBert", DECODER, since="5.23.0"),
    tiny("xlm-roberta", "XLMRoberta", ENCODER),
    tiny("xlm-roberta-xl", "XLMRobertaXL", ENCODER),
    tiny("camembert", "Camembert", ENCODER),
    tiny("funnel", "Funnel", FUNNEL),
    tiny("longformer", "Longformer", ENCODER, attention_window=8),
    tiny("big_bird", "BigBird", ENCODER | SPARSE),
    tiny("big_bird(full)", "BigBird", ENCODER, attention_type="original_full"),
    tiny("xlnet", "XLNet", {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48, "d_head": 8}),
    tiny("xlm", "XLM", ENCODER, pad_index=0, init_std=0.4, embed_init_std=0.4),
    tiny("convbert", "ConvBert", ENCODER, embedding_size=16, conv_kernel_size=3),
    tiny("mobilebert", "MobileBert", ENCODER, embedding_size=16, intra_bottleneck_size=16),
    tiny("squeezebert", "SqueezeBert", ENCODER, embedding_size=32),
    tiny("roformer", "RoFormer", ENCODER),
    tiny("nystromformer", "Nystromformer", ENCODER, num_landmarks=4, segment_means_seq_len=16, takes_padding=False),
    tiny("nystromformer(full)", "Nystromformer", ENCODER, num_landmarks=16, segment_means_seq_len=16),
    tiny("yoso", "Yoso", ENCODER),
    tiny("fnet", "FNet", ENCODER),
    tiny("ernie", "Ernie", ENCODER),
    tiny("data2vec-text", "Data2VecText", ENCODER),
    tiny("megatron-bert", "MegatronBert", ENCODER),
    tiny("roberta-prelayernorm", "RobertaPreLayerNorm", ENCODER),
    tiny("xmod", "Xmod", ENCODER, default_language="en_XX"),
    tiny("ibert", "IBert", ENCODER),
    tiny("rembert", "RemBert", ENCODER, input_embedding_size=16, output_embedding_size=16),
    tiny("esm", "Esm", ENCODER, position_embedding_type="rotary"),
    tiny("layoutlm", "LayoutLM", ENCODER, max_2d_position_embeddings=64),
    tiny("luke", "Luke", ENCODER, entity_vocab_size=8, entity_emb_size=16),
    tiny("tapas", "Tapas", ENCODER),
    tiny("visual_bert", "VisualBert", ENCODER, visual_embedding_dim=16),
    tiny("splinter", "Splinter", ENCODER),
    tiny("nomic_bert", "NomicBert", ENCODER, since="5.23.0"),
    tiny("gte", "Gte", ENCODER, since="5.23.0"),
    tiny("jina_embeddings_v3", "JinaEmbeddingsV3", ENCODER, since="5.23.0"),
    tiny("ultrabert", "Ultrabert", DECODER, sliding_window=8, since="5.23.0"),
    tiny("openai_privacy_filter", "OpenAIPrivacyFilter", EXPERTS, sliding_window=4, since="5.23.0"),
    tiny("canine", "Canine", ENCODER, num_hash_buckets=16),
    tiny("reformer", "Reformer", REFORMER),
    tiny("clip_text_model", "CLIPText", ENCODER, initializer_factor=4.0),
    tiny("siglip_text_model", "SiglipText", ENCODER),
    seq2seq("t5", "T5", T5),
    seq2seq("mt5", "MT5", T5),
    seq2seq("umt5", "UMT5", T5),
    seq2seq("longt5", "LongT5", LONG_T5),
    seq2seq("longt5(global)", "LongT5", LONG_T5, encoder_attention_type="transient-global"),
    seq2seq("switch_transformers", "SwitchTransformers", T5, num_experts=2),
    seq2seq("bart", "Bart", BART),
    seq2seq("marian", "Marian", BART, suffix="MTModel"),
    seq2seq("pegasus", "Pegasus", BART),
    seq2seq("led", "LED", LED),
    seq2seq("mbart", "MBart", BART),
    seq2seq("m2m_100", "M2M100", BART),
    seq2seq("nllb-moe", "NllbMoe", BART, num_experts=2, encoder_sparse_step=2, decoder_sparse_step=2),
    seq2seq("blenderbot", "Blenderbot", BART),
    seq2seq("mvp", "Mvp", BART),
    seq2seq("pegasus_x", "PegasusX", BART, block_size=4, num_global_tokens=2),
    seq2seq("bigbird_pegasus", "BigBirdPegasus", BART | SPARSE),
    seq2seq("fsmt", "FSMT", BART, src_vocab_size=25, tgt_vocab_size=25),
    seq2seq("prophetnet", "ProphetNet", PROPHET),
    seq2seq("t5gemma", "T5Gemma", {"encoder": MODULE, "decoder": MODULE | {"cross_attention_hidden_size": 32}}),
    speech2text("whisper", "Whisper", WHISPER),
    speech2text("speech_to_text", "Speech2Text", BART, shape=(24, 8), input_feat_per_channel=8, conv_channels=16),
    speech2text("moonshine", "Moonshine", MOONSHINE, shape=(4000,)),
    causal("gpt2", "GPT2", DECODER, suffix="LMHeadModel"),
    causal("gpt_neo", "GPTNeo", GPT_NEO, window_size=8),
    causal("gptj", "GPTJ", DECODER, rotary_dim=4),
    causal("gpt_neox", "GPTNeoX", DECODER),
    causal("gpt_neox_japanese", "GPTNeoXJapanese", DECODER),
    causal("gpt_bigcode", "GPTBigCode", DECODER),
    causal("openai-gpt", "OpenAIGPT", DECODER, suffix="LMHeadModel"),
    causal("opt", "OPT", DECODER, ffn_dim=48, word_embed_proj_dim=32, init_std=0.4),
    causal("bloom", "Bloom", DECODER),
    causal("mpt", "Mpt", DECODER),
    causal("falcon", "Falcon", DECODER),
    causal("falcon(alibi)", "Falcon", DECODER, alibi=True, new_decoder_architecture=True),
    causal("ctrl", "CTRL", DECODER, suffix="LMHeadModel", dff=48),
    causal("codegen", "CodeGen", DECODER, rotary_dim=4),
    causal("xglm", "XGLM", DECODER, ffn_dim=48, init_std=0.4),
    causal("biogpt", "BioGpt", DECODER),
    causal("trocr", "TrOCR", BART),
    causal("bert(causal)", "Bert", ENCODER, suffix="LMHeadModel", is_decoder=True),
    causal("xlm(causal)", "XLM", ENCODER, suffix="WithLMHeadModel", causal=True, pad_index=0, init_std=0.4),
    causal("llama", "Llama", HEADS),
    causal("mistral", "Mistral", WINDOW),
    causal("mixtral", "Mixtral", EXPERTS),
    causal("qwen2", "Qwen2", DECODER),
    causal("qwen2(window)", "Qwen2", DECODER, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    causal("qwen2_moe", "Qwen2Moe", EXPERTS),
    causal("qwen3", "Qwen3", HEADS),
    causal("qwen3_moe", "Qwen3Moe", EXPERTS),
    causal("gemma", "Gemma", HEADS),
    causal("gemma2", "Gemma2", GEMMA),
    Architecture("gemma3_text", "Gemma3TextConfig", "Gemma3ForCausalLM", GEMMA),
    Architecture("gemma3n_text", "Gemma3nTextConfig", "Gemma3nForCausalLM", GEMMA3N),
    causal("vaultgemma", "VaultGemma", GEMMA),
    causal("phi", "Phi", DECODER),
    causal("phi3", "Phi3", DECODER),
    causal("phimoe", "Phimoe", EXPERTS),
    causal("smollm3", "SmolLM3", DECODER),
    causal("gpt_oss", "GptOss", EXPERTS, sliding_window=8),
    causal("deepseek_v2", "DeepseekV2", LATENT),
    causal("deepseek_v3", "DeepseekV3", LATENT),
    causal("longcat_flash", "LongcatFlash", LONGCAT),
    causal("minicpm3", "MiniCPM3", LATENT, since="5.23.0"),
    causal("glm", "Glm", HEADS),
    causal("glm4", "Glm4", HEADS),
    causal("glm4_moe", "Glm4Moe", EXPERTS),
    causal("ernie4_5", "Ernie4_5", HEADS),
    causal("ernie4_5_moe", "Ernie4_5_Moe", EXPERTS),
    causal("exaone4", "Exaone4", DECODER, sliding_window=8, sliding_window_pattern=2),
    causal("cohere", "Cohere", DECODER),
    causal("cohere2", "Cohere2", GEMMA),
    causal("olmo", "Olmo", DECODER),
    causal("olmo2", "Olmo2", DECODER),
    causal("olmo3", "Olmo3", GEMMA),
    causal("olmoe", "Olmoe", EXPERTS),
    causal("granite", "Granite", DECODER),
    causal("stablelm", "StableLm", DECODER),
    causal("starcoder2", "Starcoder2", DECODER, sliding_window=8),
    causal("nemotron", "Nemotron", DECODER),
    causal("persimmon", "Persimmon", DECODER),
    causal("helium", "Helium", HEADS),
    causal("hunyuan_v1_dense", "HunYuanDenseV1", HEADS),
    causal("hunyuan_v1_moe", "HunYuanMoEV1", EXPERTS, moe_topk=2),
    causal("seed_oss", "SeedOss", HEADS),
    causal("apertus", "Apertus", DECODER),
    causal("arcee", "Arcee", DECODER),
    causal("bitnet", "BitNet", DECODER),
    causal("afmoe", "Afmoe", EXPERTS, sliding_window=8, global_attn_every_n_layers=2),
    causal("nanochat", "NanoChat", DECODER),
    causal("minimax_m2", "MiniMaxM2", EXPERTS),
    causal("mimo_v2_flash", "MiMoV2Flash", EXPERTS, sliding_window=8, v_head_dim=8, since="5.23.0"),
    causal("doge", "Doge", DECODER, keep_window_size=8),
    causal("diffllama", "DiffLlama", DECODER),
    causal("jetmoe", "JetMoe", EXPERTS, kv_channels=8),
    Architecture("llama4_text", "Llama4TextConfig", "Llama4ForCausalLM", LLAMA4),
    causal("dbrx", "Dbrx", DBRX),
    causal("hrm_text", "HrmText", HEADS, initializer_range=0.2, since="5.23.0"),
    causal("modernbert-decoder", "ModernBertDecoder", ENCODER, local_attention=8),
    causal("mamba", "Mamba", BERT, state_size=8),
    causal("mamba2", "Mamba2", BERT, state_size=8, num_heads=8, head_dim=8, n_groups=1, chunk_size=8),
    causal("falcon_mamba", "FalconMamba", BERT, state_size=8),
    causal("rwkv", "Rwkv", BERT, context_length=64),
    causal("jamba", "Jamba", EXPERTS | MAMBA, attn_layer_period=2, attn_layer_offset=1),
    causal("bamba", "Bamba", DECODER | MAMBA, attn_layer_indices=[1, 3]),
    causal("falcon_h1", "FalconH1", DECODER | MAMBA, mamba_d_ssm=64),
    causal("granitemoehybrid", "GraniteMoeHybrid", EXPERTS | MAMBA, layer_types=["mamba", "attention"] * 2),
    causal("nemotron_h", "NemotronH", NEMOTRON_H, since="5.23.0"),
    causal("zamba", "Zamba", ZAMBA, num_hidden_layers=5, attn_layer_period=2, attn_layer_offset=1),
    causal("zamba2", "Zamba2", ZAMBA, layers_block_type=["mamba", "hybrid"] * 2, adapter_rank=4, since="5.23.0"),
    causal("qwen3_next", "Qwen3Next", EXPERTS | LINEAR),
    Architecture("qwen3_5_text", "Qwen3_5TextConfig", "Qwen3_5ForCausalLM", HEADS | LINEAR, since="5.23.0"),
    causal("olmo_hybrid", "OlmoHybrid", DECODER | LINEAR, since="5.23.0"),
    causal("minimax", "MiniMax", EXPERTS | FOUR, layer_types=["linear_attention", "full_attention"] * 2, block_size=8),
    causal("lfm2", "Lfm2", DECODER | FOUR, layer_types=["conv", "full_attention"] * 2, block_multiple_of=16),
    causal("lfm2_moe", "Lfm2Moe", EXPERTS | FOUR, layer_types=["conv", "full_attention"] * 2),
    causal("recurrent_gemma", "RecurrentGemma", HEADS, attention_window_size=8),
    causal("kimi_linear", "KimiLinear", LATENT | LINEAR, linear_head_dim=8, linear_num_heads=4, since="5.23.0"),
    vision("vit", "ViT", VISION),
    vision("deit", "DeiT", VISION),
    vision("beit", "Beit", VISION),
    vision("data2vec-vision", "Data2VecVision", VISION),
    vision("swin", "Swin", SWIN),
    vision("swinv2", "Swinv2", SWIN),
    vision("dinov2", "Dinov2", VISION),
    vision("dinov2_with_registers", "Dinov2WithRegisters", VISION),
    vision("dinov3_vit", "DINOv3ViT", VISION, num_register_tokens=2),
    vision("ijepa", "IJepa", VISION),
    vision("yolos", "Yolos", VISION, image_size=[32, 32], num_detection_tokens=4),
    vision("dpt", "DPT", VISION),
    vision("segformer", "Segformer", PYRAMID, sr_ratios=[2, 1]),
    vision("pvt", "Pvt", PYRAMID, image_size=32, sequence_reduction_ratios=[2, 1]),
    vision("videomae", "VideoMAE", VIDEO, shape=(4, 3, 16, 16)),
    vision("vivit", "Vivit", VIDEO, shape=(4, 3, 16, 16), tubelet_size=[2, 8, 8]),
    vision("timesformer", "Timesformer", VIDEO, shape=(4, 3, 16, 16)),
    vision("clip_vision_model", "CLIPVision", VISION, initializer_factor=4.0),
    vision("siglip_vision_model", "SiglipVision", VISION),
    vision("aimv2_vision_model", "Aimv2Vision", VISION),
    audio("wav2vec2", "Wav2Vec2", SPEECH),
    audio("wav2vec2-conformer", "Wav2Vec2Conformer", SPEECH),
    audio("wav2vec2-bert", "Wav2Vec2Bert", SPEECH, shape=(20, 8), feature_projection_input_dim=8),
    audio("hubert", "Hubert", SPEECH),
    audio("wavlm", "WavLM", SPEECH),
    audio("unispeech", "UniSpeech", SPEECH),
    audio("data2vec-audio", "Data2VecAudio", SPEECH, conv_pos_kernel_size=3, num_conv_pos_embeddings=2),
    audio("sew", "SEW", SPEECH),
    audio("sew-d", "SEWD", SPEECH, max_position_embeddings=64, position_buckets=4),
    audio("audio-spectrogram-transformer", "AST", BERT, shape=(24, 16), patch_size=8, max_length=24, num_mel_bins=16),
)

PRESENT = [each for each in ARCHITECTURES if Version(each.since) <= Version(transformers.__version__)]
"""Those that the Transformers at hand builds and runs."""
