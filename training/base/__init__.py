"""How the embedded base model is made: data, judge, autoencoder, denoiser."""
