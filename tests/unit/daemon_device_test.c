/* tests/unit/daemon_device_test.c - which worker uses which device, and how much of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/device_list.h"

static void a_list_of_devices_is_numbers_with_commas(void **state)
{
    static const char *const wrong[] = {"",    "a",  "0,",    ",0",   "0,,1",
                                        "0 1", "-1", "0,1,0", "2000", "1;2"};
    struct daemon_device_list l;
    struct err_msg msg;
    char text[32];

    (void)state;
    assert_int_equal(daemon_device_list_parse("0,7,3", &l, &msg), ERR_OK);
    assert_int_equal(l.n, 3);
    assert_int_equal(l.v[1], 7);
    daemon_device_list_text(&l, text, sizeof(text));
    assert_string_equal(text, "0,7,3");
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(daemon_device_list_parse(wrong[i], &l, &msg), ERR_INVALID);
}

static void a_share_is_above_0_and_at_most_1(void **state)
{
    static const char *const wrong[] = {"", "0", "1.1", "-0.5", "90", "0.5x", "nan", "inf"};
    struct err_msg msg;
    double v;

    (void)state;
    assert_int_equal(daemon_device_share_parse("0.45", &v, &msg), ERR_OK);
    assert_true(v > 0.449 && v < 0.451);
    assert_int_equal(daemon_device_share_parse("1", &v, &msg), ERR_OK);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(daemon_device_share_parse(wrong[i], &v, &msg), ERR_INVALID);
}

static void deal_is(const struct daemon_device_users *u, uint32_t i, const char *devices,
                    double share)
{
    struct daemon_device_list l;
    struct err_msg msg;
    char text[64];
    double got;

    assert_int_equal(daemon_device_deal(u, i, &l, &got, &msg), ERR_OK);
    daemon_device_list_text(&l, text, sizeof(text));
    assert_string_equal(text, devices);
    assert_true(got > share - 1e-9 && got < share + 1e-9);
}

static void a_pair_without_a_list_shares_the_first_device(void **state)
{
    const uint32_t ranks[] = {1, 1};
    const struct daemon_device_users u = {.ranks = ranks, .n = 2, .share = 0.9};

    (void)state;
    deal_is(&u, 0, "0", 0.45);
    deal_is(&u, 1, "0", 0.45);
}

static void listed_devices_are_dealt_out_in_order_and_over_again(void **state)
{
    const uint32_t ranks[] = {2, 1, 1, 1};
    const struct daemon_device_list list = {.v = {4, 5, 6}, .n = 3}, one = {.v = {1}, .n = 1};
    struct daemon_device_users u = {.list = &list, .ranks = ranks, .n = 4, .share = 0.8};
    struct daemon_device_list l;
    struct err_msg msg;
    double share;

    (void)state;
    deal_is(&u, 0, "4,5", 0.4); /* the third and fourth worker use them too */
    deal_is(&u, 1, "6", 0.8);
    deal_is(&u, 2, "4", 0.4);
    deal_is(&u, 3, "5", 0.4);
    u.list = &one;
    assert_int_equal(daemon_device_deal(&u, 0, &l, &share, &msg), ERR_INVALID);
    assert_non_null(strstr(msg.text, "2 ranks"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_of_devices_is_numbers_with_commas),
        cmocka_unit_test(a_share_is_above_0_and_at_most_1),
        cmocka_unit_test(a_pair_without_a_list_shares_the_first_device),
        cmocka_unit_test(listed_devices_are_dealt_out_in_order_and_over_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
