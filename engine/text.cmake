# The text half of the engine: tokenizer and chat templates.
set(ENGINE_TEXT_SOURCES
  engine_tok_added.c engine_tok_bpe.c engine_tok_detok.c engine_tok_encode.c engine_tok_file.c
  engine_tok_load.c
  engine_tok_norm.c engine_tok_split.c engine_tok_stages.c engine_tok_table.c)
