/* fr_answer.h: the answers that the relay gives in a server's place: status line, fields and a body of one line.
 *
 * Not here: when to answer, and with what. Rules: fixed texts alone, never a byte of the request (an echo is how pages of
 * errors come to carry scripts); no name and no version of this program.
 */
#ifndef FR_ANSWER_H
#define FR_ANSWER_H

#include "fr_out.h"

typedef struct {
    const uint8_t *date;
    size_t date_size;
    int close;   /* the connection ends after this answer */
    int is_head; /* to a HEAD request: the body's length is told, the body is not sent (RFC 9110, 9.3.2) */
} fr_answer;

/* The phrases of RFC 9110, 15; "Error" for a status that is never used. */
static inline const char *fr_phrase_of(int status)
{
    switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 417: return "Expectation Failed";
    case 421: return "Misdirected Request";
    case 426: return "Upgrade Required";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    }
    return "Error";
}

static inline void fr_write_answer(fr_out *out, int status, const fr_answer *how)
{
    const char *phrase = fr_phrase_of(status);

    fr_out_lit(out, "HTTP/1.1 ");
    fr_out_decimal(out, (uint64_t)status);
    fr_out_lit(out, " ");
    fr_out_text(out, phrase);
    fr_out_lit(out, "\r\nDate: ");
    fr_out_put(out, how->date, how->date_size);
    fr_out_lit(out, "\r\nContent-Type: text/plain\r\nContent-Length: ");
    fr_out_decimal(out, strlen(phrase) + 1);
    if (how->close)
        fr_out_lit(out, "\r\nConnection: close");
    fr_out_lit(out, "\r\n\r\n");
    if (!how->is_head) {
        fr_out_text(out, phrase);
        fr_out_lit(out, "\n");
    }
}

#endif
