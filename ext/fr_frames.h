/* fr_frames.h: where the frames of a WebSocket begin, as the bytes of one direction go by (RFC 6455, 5.2).
 *
 * Not here: what is in them; nothing is looked at, kept or changed but the headers' lengths. Why all the time and not only
 * once a drain has begun: in the middle of a stream nothing tells a header from a payload, so a boundary is known only to
 * whoever has counted from the first byte on. The cost is a few instructions per frame and none per byte of payload.
 *
 * What it is for: a balancer that stops says so in the server's place with a Close frame, "going away" (7.4.1), which may
 * stand between any two frames, those of one fragmented message included (5.4). After it nothing of the server's may follow.
 */
#ifndef FR_FRAMES_H
#define FR_FRAMES_H

#include <strings.h>

#include "fr_base.h"
#include "fr_http.h"

#define FR_FRAME_CLOSE 0x8u

/* 1001 without a reason, not masked, as servers send it. */
static const uint8_t fr_frame_going_away[4] = {0x88, 0x02, 0x03, 0xE9};

typedef struct {
    uint64_t left;              /* payload of the present frame still to come */
    uint8_t have, need, length_bytes; /* of its header; have 0: none of it came */
    uint8_t closed;             /* a Close frame went by */
} fr_frames;

/* Does this answer of a server switch to the WebSocket protocol? */
static inline int fr_frames_follow(const uint8_t *data, const fr_head *head)
{
    for (unsigned i = 0; i < head->field_count; i++) {
        const fr_field *field = &head->fields[i];

        if (field->id == FR_FIELD_UPGRADE)
            return field->value_size == 9 && !strncasecmp((const char *)data + field->value_at, "websocket", 9);
    }
    return 0;
}

static inline int fr_frames_between(const fr_frames *s)
{
    return s->have == 0 && s->left == 0;
}

/* Goes over data[0:size]; stop: only up to the next place between two frames. -> bytes gone over. */
static inline size_t fr_frames_pass(fr_frames *s, const uint8_t *data, size_t size, int stop)
{
    size_t at = 0;

    while (at < size) {
        uint8_t byte;

        if (s->have == 0) {
            if (s->left) {
                size_t taken = s->left < size - at ? (size_t)s->left : size - at;
                s->left -= taken;
                at += taken;
                continue;
            }
            if (stop)
                break;
        }
        byte = data[at++];
        switch (s->have++) {
        case 0:
            s->need = 2;
            s->closed |= (byte & 0xf) == FR_FRAME_CLOSE;
            break;
        case 1:
            s->left = byte & 0x7f;
            s->length_bytes = s->left == 126 ? 2 : s->left == 127 ? 8 : 0;
            if (s->length_bytes)
                s->left = 0;
            s->need = (uint8_t)(2 + s->length_bytes + (byte & 0x80 ? 4 : 0));
            break;
        default:
            if (s->have <= 2 + s->length_bytes)
                s->left = s->left << 8 | byte;
        }
        if (s->have >= 2 && s->have == s->need)
            s->have = 0;
    }
    return at;
}

#endif
