/* daemon/device_list.c - see the header. */
#include "daemon/device_list.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static bool contains(const struct daemon_device_list *l, uint32_t device)
{
    for (uint32_t i = 0; i < l->n; i++) {
        if (l->v[i] == device)
            return true;
    }
    return false;
}

static bool parse(const char *text, struct daemon_device_list *out)
{
    out->n = 0;
    for (;;) {
        char *end;
        unsigned long v;

        if (!isdigit((unsigned char)*text) || out->n == DAEMON_DEVICES_MAX)
            return false;
        v = strtoul(text, &end, 10);
        if (v > DAEMON_DEVICE_LAST || contains(out, (uint32_t)v))
            return false;
        out->v[out->n++] = (uint32_t)v;
        if (*end == '\0')
            return true;
        if (*end != ',')
            return false;
        text = end + 1;
    }
}

enum err daemon_device_list_parse(const char *text, struct daemon_device_list *out,
                                  struct err_msg *msg)
{
    if (parse(text, out))
        return ERR_OK;
    return err_set(msg, ERR_INVALID,
                   "device is '%.80s': a list of different numbers such as 0,1 is wanted", text);
}

enum err daemon_device_share_parse(const char *text, double *out, struct err_msg *msg)
{
    char *end = NULL;
    double v = strtod(text, &end);

    if (end == text || *end != '\0' || !(v > 0 && v <= 1))
        return err_set(
            msg, ERR_INVALID,
            "gpu_memory is '%.40s': a share above 0 and at most 1 is wanted, such as 0.9", text);
    *out = v;
    return ERR_OK;
}

/* Rank `rank` of worker i. */
static uint32_t device_of(const struct daemon_device_users *u, uint32_t i, uint32_t rank)
{
    uint32_t first = 0;

    if (u->list == NULL)
        return rank;
    for (uint32_t k = 0; k < i; k++)
        first += u->ranks[k];
    return u->list->v[(first + rank) % u->list->n];
}

static uint32_t users_of(const struct daemon_device_users *u, uint32_t device)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < u->n; i++) {
        for (uint32_t rank = 0; rank < u->ranks[i]; rank++)
            n += device_of(u, i, rank) == device;
    }
    return n;
}

enum err daemon_device_deal(const struct daemon_device_users *u, uint32_t i,
                            struct daemon_device_list *out, double *share, struct err_msg *msg)
{
    uint32_t most = 1;

    if (u->ranks[i] > DAEMON_DEVICES_MAX || (u->list != NULL && u->ranks[i] > u->list->n))
        return err_set(msg, ERR_INVALID,
                       "a worker of %u ranks needs as many devices, %u are listed", u->ranks[i],
                       u->list != NULL ? u->list->n : DAEMON_DEVICES_MAX);
    out->n = u->ranks[i];
    for (uint32_t rank = 0; rank < out->n; rank++) {
        uint32_t users;

        out->v[rank] = device_of(u, i, rank);
        users = users_of(u, out->v[rank]);
        most = users > most ? users : most;
    }
    *share = u->share / most;
    return ERR_OK;
}

void daemon_device_list_text(const struct daemon_device_list *l, char *out, size_t cap)
{
    size_t at = 0;

    out[0] = '\0';
    for (uint32_t i = 0; i < l->n && at < cap; i++)
        at += (size_t)snprintf(out + at, cap - at, "%s%u", i > 0 ? "," : "", l->v[i]);
}
