"""N-gram language models: trained with modified Kneser-Ney smoothing, written as ARPA."""
