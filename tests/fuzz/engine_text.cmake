# Tokenizer files and chat templates.
baton_fuzz_target(NAME tokenizer_fuzz SOURCES fuzz/tokenizer_fuzz.c LIBS engine)
baton_fuzz_target(NAME chat_template_fuzz SOURCES fuzz/chat_template_fuzz.c LIBS engine)
