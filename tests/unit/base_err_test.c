/* tests/unit/base_err_test.c - codes, names, scopes, messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"

static void every_code_has_a_name_a_text_and_a_scope(void **state)
{
    static const enum err codes[] = {
#define X(name, value, scope, text) ERR_##name,
        ERR_MAP(X)
#undef X
    };

    (void)state;
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        assert_int_equal(strncmp(err_name(codes[i]), "ERR_", 4), 0);
        assert_string_not_equal(err_name(codes[i]), "ERR_?");
        assert_string_not_equal(err_text(codes[i]), "unknown error");
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(codes[i], codes[j]);
        assert_true(codes[i] == ERR_OK ? err_scope(codes[i]) == ERR_SCOPE_NONE
                                       : err_scope(codes[i]) != ERR_SCOPE_NONE);
    }
}

static void a_number_that_is_no_code_is_named_and_taken_as_the_worst(void **state)
{
    (void)state;
    assert_string_equal(err_name((enum err) - 999), "ERR_?");
    assert_string_equal(err_text((enum err) - 999), "unknown error");
    assert_int_equal(err_scope((enum err) - 999), ERR_SCOPE_DEVICE);
}

static void scopes_tell_how_far_the_damage_reaches(void **state)
{
    (void)state;
    assert_int_equal(err_scope(ERR_INVALID), ERR_SCOPE_CALL);
    assert_int_equal(err_scope(ERR_NOMEM), ERR_SCOPE_REQUEST);
    assert_int_equal(err_scope(ERR_BAD_FRAME), ERR_SCOPE_PEER);
    assert_int_equal(err_scope(ERR_DEVICE), ERR_SCOPE_DEVICE);
}

static void a_message_is_cut_to_fit_and_always_ends(void **state)
{
    struct err_msg msg;
    char longer[1000];

    (void)state;
    memset(&msg, 'x', sizeof(msg));
    memset(longer, 'y', sizeof(longer));
    longer[sizeof(longer) - 1] = '\0';
    assert_int_equal(err_set(&msg, ERR_IO, "%s:%d", "file", 7), ERR_IO);
    assert_string_equal(msg.text, "file:7");
    assert_int_equal(err_set(&msg, ERR_LIMIT, "%s", longer), ERR_LIMIT);
    assert_int_equal(strlen(msg.text), sizeof(msg.text) - 1);
    assert_int_equal(err_set(NULL, ERR_LIMIT, "%s", longer), ERR_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_a_name_a_text_and_a_scope),
        cmocka_unit_test(a_number_that_is_no_code_is_named_and_taken_as_the_worst),
        cmocka_unit_test(scopes_tell_how_far_the_damage_reaches),
        cmocka_unit_test(a_message_is_cut_to_fit_and_always_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
