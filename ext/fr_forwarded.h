/* fr_forwarded.h: for whom a trusted peer speaks: X-Forwarded-For, and Forwarded (RFC 7239).
 *
 * Not here: who is trusted (a list of networks), what is written for servers (fr_forward.h). The rule: hops are read from the
 * right, the last one having been added by the peer itself; those in trusted networks are passed over, and the first that is
 * not one of them is the client. Whatever stands left of it was in the client's own hands. A hop that is no address
 * ("unknown", "_hidden", rubbish) ends the walk at the one before it, as in nginx (real_ip_recursive).
 * Rules: pure functions over a scanned head; at most FR_HOPS_MAX hops are looked at, so that a head cannot cost more.
 */
#ifndef FR_FORWARDED_H
#define FR_FORWARDED_H

#include "fr_address.h"
#include "fr_http.h"

#define FR_HOPS_MAX 32

typedef struct {
    const uint8_t *at;
    size_t size;
} fr_hop;

/* Hops seen so far, the last FR_HOPS_MAX of them. */
typedef struct {
    fr_hop hops[FR_HOPS_MAX];
    uint32_t count;
} fr_hops;

static inline void fr_hops_add(fr_hops *hops, const uint8_t *from, const uint8_t *to)
{
    fr_hop *hop = &hops->hops[hops->count++ % FR_HOPS_MAX];

    while (from < to && (*from == ' ' || *from == '\t'))
        from++;
    while (to > from && (to[-1] == ' ' || to[-1] == '\t'))
        to--;
    if (to - from >= 2 && *from == '"' && to[-1] == '"') {
        from++;
        to--;
    }
    hop->at = from;
    hop->size = (size_t)(to - from);
}

static inline void fr_hops_of_list(fr_hops *hops, const uint8_t *at, size_t size)
{
    const uint8_t *end = at + size, *stop;

    for (; at <= end; at = stop + 1) {
        stop = at < end ? (const uint8_t *)memchr(at, ',', (size_t)(end - at)) : NULL;
        if (stop == NULL)
            stop = end;
        if (stop > at)
            fr_hops_add(hops, at, stop);
    }
}

/* The `for` of each element: pairs end at ';' or ',' outside quotes; names are case-insensitive (RFC 7239, 4). */
static inline void fr_hops_of_forwarded(fr_hops *hops, const uint8_t *at, size_t size)
{
    const uint8_t *end = at + size, *pair = at;
    int quoted = 0;
    const uint8_t *said = NULL, *said_end = NULL; /* of the present element */

    for (;; at++) {
        if (at < end && *at == '"')
            quoted = !quoted;
        if (at < end && quoted && *at == '\\' && at + 1 < end)
            at++;
        if (at < end && (quoted || (*at != ';' && *at != ',')))
            continue;
        while (pair < at && (*pair == ' ' || *pair == '\t'))
            pair++;
        if (at - pair > 4 && (pair[0] | 0x20) == 'f' && (pair[1] | 0x20) == 'o' && (pair[2] | 0x20) == 'r' && pair[3] == '=') {
            said = pair + 4;
            said_end = at;
        }
        if (at >= end || *at == ',') {
            if (said != NULL)
                fr_hops_add(hops, said, said_end);
            else if (at > pair)
                fr_hops_add(hops, at, at); /* an element that says nobody ends the walk */
            said = NULL;
        }
        if (at >= end)
            return;
        pair = at + 1;
    }
}

/* Who the client is, as text in its shortest form; 0: the peer itself. `by_forwarded`: Forwarded counts, where there is one. */
static inline size_t fr_forwarded_client(const uint8_t *data, const fr_head *head, const fr_network *trusted, uint32_t trusted_count,
                                         int by_forwarded, char text[INET6_ADDRSTRLEN])
{
    fr_hops hops;
    fr_address address, found;
    int any = 0;

    hops.count = 0;
    if (by_forwarded)
        for (unsigned i = 0; i < head->field_count; i++)
            if (head->fields[i].id == FR_FIELD_FORWARDED)
                fr_hops_of_forwarded(&hops, data + head->fields[i].value_at, head->fields[i].value_size);
    if (hops.count == 0)
        for (unsigned i = 0; i < head->field_count; i++)
            if (head->fields[i].id == FR_FIELD_X_FORWARDED_FOR)
                fr_hops_of_list(&hops, data + head->fields[i].value_at, head->fields[i].value_size);
    for (uint32_t back = 0; back < hops.count && back < FR_HOPS_MAX; back++) {
        const fr_hop *hop = &hops.hops[(hops.count - 1 - back) % FR_HOPS_MAX];

        if (!fr_address_parse(hop->at, hop->size, &address))
            break;
        found = address;
        any = 1;
        if (!fr_networks_hold(trusted, trusted_count, &address))
            break;
    }
    if (!any)
        return 0;
    if (memcmp(found.bytes, "\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0)
        inet_ntop(AF_INET, found.bytes + 12, text, INET6_ADDRSTRLEN);
    else
        inet_ntop(AF_INET6, found.bytes, text, INET6_ADDRSTRLEN);
    return strlen(text);
}

#endif
