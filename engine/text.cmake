# The text half of the engine: tokenizer and chat templates.
set(ENGINE_TEXT_SOURCES
  engine_chat.c engine_chat_call.c engine_chat_eval.c engine_chat_exec.c engine_chat_expr.c
  engine_chat_filter.c engine_chat_lex.c engine_chat_names.c engine_chat_parse.c engine_chat_str.c
  engine_chat_value.c
  engine_tok_added.c engine_tok_bpe.c engine_tok_detok.c engine_tok_encode.c engine_tok_file.c
  engine_tok_load.c engine_tok_norm.c engine_tok_split.c engine_tok_stages.c engine_tok_table.c)
