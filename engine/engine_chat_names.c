/* engine/engine_chat_names.c - the filters, tests, methods and functions of the language, by name. */
#include "engine/engine_chat_impl.h"

#include <string.h>

static int find(const char *const *names, int count, const char *s, size_t n)
{
    for (int i = 0; i < count; i++)
        if (strlen(names[i]) == n && memcmp(names[i], s, n) == 0)
            return i;
    return -1;
}

#define X(name) #name,
static const char *const filters[] = {CHAT_FILTERS(X)};
static const char *const tests[] = {CHAT_TESTS(X)};
static const char *const methods[] = {CHAT_METHODS(X)};
static const char *const functions[] = {CHAT_FUNCTIONS(X)};
#undef X

int chat_filter_find(const char *s, size_t n)
{
    return find(filters, CHAT_FILTER_COUNT, s, n);
}

int chat_test_find(const char *s, size_t n)
{
    static const struct {
        const char *sign, *name;
    } signs[] = {{"==", "eq"}, {"!=", "ne"}, {"<", "lt"},        {"<=", "le"},
                 {">", "gt"},  {">=", "ge"}, {"lessthan", "lt"}, {"greaterthan", "gt"}};

    for (size_t i = 0; i < sizeof(signs) / sizeof(signs[0]); i++)
        if (strlen(signs[i].sign) == n && memcmp(signs[i].sign, s, n) == 0)
            return find(tests, CHAT_TEST_COUNT, signs[i].name, strlen(signs[i].name));
    return find(tests, CHAT_TEST_COUNT, s, n);
}

int chat_method_find(const char *s, size_t n)
{
    return find(methods, CHAT_METHOD_COUNT, s, n);
}

int chat_function_find(const char *s, size_t n)
{
    return find(functions, CHAT_FUNCTION_COUNT, s, n);
}
