# Tokenizer and chat templates.
baton_unit_test(NAME engine_tok_test SOURCES unit/engine_tok_test.c
  LIBS engine PkgConfig::JANSSON PkgConfig::PCRE2)
baton_unit_test(NAME engine_chat_test SOURCES unit/engine_chat_test.c
  LIBS engine PkgConfig::JANSSON)
