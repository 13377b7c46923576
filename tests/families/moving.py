"""Video and audio: Wan, LTX-Video, CogVideoX, HunyuanVideo, Mochi, AudioLDM 2, Stable Audio."""

import torch
from diffusers import (
    AudioLDM2UNet2DConditionModel,
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLWan,
    AutoencoderOobleck,
    CogVideoXTransformer3DModel,
    HunyuanVideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    MochiTransformer3DModel,
    StableAudioDiTModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from transformers import GPT2Config, GPT2Model, SpeechT5HifiGan, SpeechT5HifiGanConfig, T5Config, T5EncoderModel

from tests.families.case import PICTURES, Case, certain, embeddings, lively, pictures, together
from tests.families.flows import SIZE, WIDTH
from tests.families.transformers import both_masks, made

TEXT = embeddings("prompt_embeds", 6, WIDTH)
HEADS = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}
FLOW = ("flow Euler", "flow UniPC", "flow DPM++ 2M")

wan = {
    **HEADS,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": WIDTH,
    "freq_dim": 16,
    "ffn_dim": 16,
    "rope_max_seq_len": 32,
}


def wan_autoencoder():
    """32x32x5 <-> 4x4x2."""
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1] * 4,
        latents_std=[1.5] * 4,
    )
    return vae.eval()


def wan_maker(cls=WanTransformer3DModel, experts: int = 1, **config):
    def pipeline(pipeline_cls, scheduler):
        nets = [lively(cls(**wan | config)) for _ in range(experts)]
        more = {"transformer_2": nets[1], "boundary_ratio": 0.8} if experts == 2 else {}
        if "ImageTo" in pipeline_cls.__name__:
            more |= {"image_processor": None, "image_encoder": None}
        return pipeline_cls(
            tokenizer=None,
            text_encoder=None,
            vae=wan_autoencoder(),
            transformer=nets[0],
            scheduler=scheduler,
            **more,
        )

    return pipeline


def videos(name: str):
    return lambda samples: {name: [[PICTURES[i].rotate(10 * frame) for frame in range(5)] for i in samples]}


ltx = {
    **HEADS,
    "in_channels": 8,
    "out_channels": 8,
    "cross_attention_dim": 16,
    "caption_channels": WIDTH,
}
cogvideox = {
    **HEADS,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": WIDTH,
    "sample_width": 4,
    "sample_height": 4,
    "sample_frames": 5,
    "temporal_compression_ratio": 4,
    "max_text_seq_length": 6,
}


def cogvideox_autoencoder():
    """32x32x5 <-> 4x4x2."""
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    return certain(vae, vae.encoder.conv_out.conv)


def hunyuan_autoencoder():
    """32x32x5 <-> 4x4x2."""
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    return vae.eval()


hunyuan = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 10,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "patch_size": 1,
    "text_embed_dim": WIDTH,
    "pooled_projection_dim": 8,
    "rope_axes_dim": (2, 4, 4),
}
hunyuan_text = together(TEXT, embeddings("pooled_prompt_embeds", 8), both_masks, height=32, width=32, num_frames=5)
mochi = {
    **HEADS,
    "in_channels": 4,
    "out_channels": 4,
    "pooled_projection_dim": 8,
    "text_embed_dim": WIDTH,
    "time_embed_dim": 4,
    "max_sequence_length": 6,
}
FRAMES = {**SIZE, "num_frames": 5}
video_text = together(TEXT, **FRAMES)


def audioldm(cls, scheduler):
    unet = AudioLDM2UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=([None, WIDTH, WIDTH], [None, WIDTH, WIDTH]),
    )
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8,
            sampling_rate=16000,
            upsample_initial_channel=16,
            upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1]],
            normalize_before=False,
        )
    )
    encoder = T5EncoderModel(T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    language_model = GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=8))
    absent = ("text_encoder", "projection_model")
    return cls(
        vae=vae,
        unet=lively(unet),
        scheduler=scheduler,
        vocoder=vocoder,
        text_encoder_2=encoder.eval(),
        language_model=language_model.eval(),
        **dict.fromkeys((*absent, "tokenizer", "tokenizer_2", "feature_extractor")),
    )


def audio_masks(samples: list[int]) -> dict:
    mask = torch.ones(len(samples), 6, dtype=torch.long)
    return {"attention_mask": mask, "negative_attention_mask": mask}


def stable_audio(cls, scheduler):
    net = StableAudioDiTModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=2,
        cross_attention_dim=8,
        time_proj_dim=8,
        global_states_input_dim=2 * WIDTH,
        cross_attention_input_dim=WIDTH,
    )
    vae = AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[2, 2],
        channel_multiples=[1, 1],
        decoder_channels=4,
        decoder_input_channels=4,
        sampling_rate=8,
    )
    return cls(
        vae=vae.eval(),
        text_encoder=None,
        projection_model=StableAudioProjectionModel(WIDTH, WIDTH, 0, 32).eval(),
        tokenizer=None,
        transformer=lively(net),
        scheduler=scheduler,
    )


wan_image = wan_maker(in_channels=12)
wan_vace = wan_maker(WanVACETransformer3DModel, vace_layers=[0], vace_in_channels=72)
mochi_maker = made((MochiTransformer3DModel, mochi), "vae")
V = ("CogVideoX DDIM v", "CogVideoX DPM v")
true_cfg = {"scale": {"true_cfg_scale": 5.0}}
vae = {"vae": cogvideox_autoencoder}
CASES = [
    Case("WanPipeline", wan_maker(), video_text, FLOW),
    Case("WanPipeline", wan_maker(experts=2), video_text, FLOW[:1], variant="2.2, both experts"),
    Case(
        "WanImageToVideoPipeline",
        wan_maker(in_channels=12),
        together(video_text, image=PICTURES[0]),
        FLOW[:1],
        alone=True,
    ),
    Case("WanVideoToVideoPipeline", wan_maker(), together(TEXT, videos("video"), **SIZE, strength=0.8), FLOW[:1]),
    Case(
        "WanVACEPipeline",
        wan_vace,
        video_text,
        FLOW[:1],
        alone=True,
    ),
    Case(
        "LTXPipeline",
        made((LTXVideoTransformer3DModel, ltx), "vae"),
        together(TEXT, both_masks, height=64, width=64, num_frames=9),
        FLOW[:1],
    ),
    Case("CogVideoXPipeline", made((CogVideoXTransformer3DModel, cogvideox), **vae), video_text, V),
    Case(
        "CogVideoXImageToVideoPipeline",
        made((CogVideoXTransformer3DModel, {**cogvideox, "in_channels": 8}), **vae),
        together(video_text, pictures()),
        V[:1],
    ),
    Case(
        "CogVideoXVideoToVideoPipeline",
        made((CogVideoXTransformer3DModel, cogvideox), **vae),
        together(TEXT, videos("video"), **SIZE, strength=0.8),
        V[:1],
    ),
    Case(
        "CogVideoXFunControlPipeline",
        made((CogVideoXTransformer3DModel, {**cogvideox, "in_channels": 8}), **vae),
        together(TEXT, videos("control_video"), **SIZE),
        V[:1],
    ),
    Case(
        "HunyuanVideoPipeline",
        made((HunyuanVideoTransformer3DModel, hunyuan), "vae", "text_encoder_2", "tokenizer_2"),
        hunyuan_text,
        FLOW[:1],
        **true_cfg,
    ),
    Case(
        "HunyuanSkyreelsImageToVideoPipeline",
        made(
            (HunyuanVideoTransformer3DModel, {**hunyuan, "in_channels": 8}),
            "text_encoder_2",
            "tokenizer_2",
            vae=hunyuan_autoencoder,
        ),
        together(hunyuan_text, pictures()),
        FLOW[:1],
        **true_cfg,
    ),
    Case(
        "MochiPipeline",
        mochi_maker,
        together(video_text, both_masks),
        ("flow Euler, inverted",),
    ),
    Case(
        "AudioLDM2Pipeline",
        audioldm,
        together(TEXT, embeddings("generated_prompt_embeds", 8, WIDTH), audio_masks, audio_length_in_s=0.008),
        ("DDIM", "DPM++ 2M", "Heun"),
    ),
    Case(
        "StableAudioPipeline",
        stable_audio,
        together(TEXT, audio_masks, audio_end_in_s=4.0),
        ("EDM DPM++ 2M v",),
    ),
]
