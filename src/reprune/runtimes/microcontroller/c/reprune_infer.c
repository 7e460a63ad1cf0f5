/* See reprune_infer.h. The operations are those of reprune.runtimes.microcontroller.graph. */
#include "reprune_model.h"
#include "reprune_infer.h"

#include <string.h>
#if REPRUNE_USES_EXP
#include <math.h>
#endif

enum { CONV, TRANSPOSED, MAX_POOL, AVERAGE, ADD, MULTIPLY, CLAMP, LEAKY, SIGMOID, TANH, HARD_SIGMOID,
       HARD_SWISH, SILU, AFFINE, PLACE, NEAREST, SOFTMAX, LOG_SOFTMAX };
enum { STORED_WEIGHT = 1, HAS_SCALE = 2, HAS_BIAS = 4 };
enum { DENSE, RUNS, BITMASK, GAPS };

#define MAX_SIDE 65535u
#define MAX_REACH (1u << 30)

/* ---- bytes, and tensors that are stored in sparse forms ---------------------------------------- */

typedef struct {
    const uint8_t *data;
    uint32_t place, end;
    uint8_t bad; /* something was read that is not there */
} bytes;

static uint8_t byte_of(bytes *b) {
    if (b->place < b->end) return b->data[b->place++];
    b->bad = 1;
    return 0;
}

static uint32_t number_of(bytes *b) {
    uint32_t number = 0, shift;
    for (shift = 0; shift <= 28; shift += 7) {
        uint8_t byte = byte_of(b);
        number |= (uint32_t)(byte & 0x7F) << shift;
        if (byte < 0x80) return number;
    }
    b->bad = 1;
    return 0;
}

static float float_of(bytes *b) {
    uint32_t bits = 0, place;
    float value;
    for (place = 0; place < 4; place++) bits |= (uint32_t)byte_of(b) << (8 * place);
    memcpy(&value, &bits, 4);
    return value;
}

/* The next `count` bytes as a part of their own. */
static bytes part_of(bytes *b, uint32_t count) {
    bytes part = *b;
    if (count > b->end - b->place) {
        b->bad = 1;
        count = 0;
    }
    part.end = b->place + count;
    b->place += count;
    return part;
}

typedef struct {
    bytes marks, values;
    uint32_t left;  /* runs or gaps that are not read yet */
    uint32_t zeros, held, bit;
    uint8_t form, gap_bits;
} stored;

/* The next tensor of the file of stored ones; it must have `elements` of them. */
static int open_stored(bytes *file, stored *t, uint32_t elements) {
    uint32_t dimensions, place, product = 1;
    bytes payload;
    part_of(file, number_of(file));
    if (byte_of(file) != 0) return REPRUNE_E_FORMAT; /* float32 */
    t->form = byte_of(file);
    dimensions = number_of(file);
    if (t->form > GAPS || dimensions > REPRUNE_MAX_DIMENSIONS) return REPRUNE_E_FORMAT;
    for (place = 0; place < dimensions; place++) {
        uint32_t side = number_of(file);
        if (side == 0 || side > elements / product) return REPRUNE_E_SHAPE;
        product *= side;
    }
    payload = part_of(file, number_of(file));
    if (file->bad) return REPRUNE_E_FORMAT;
    if (product != elements) return REPRUNE_E_SHAPE;
    t->left = t->zeros = t->held = t->bit = 0;
    t->marks = t->values = payload;
    if (t->form == RUNS) {
        t->left = number_of(&t->marks);
        t->values = t->marks;
        if (t->left > (t->marks.end - t->marks.place) / 2) return REPRUNE_E_FORMAT;
        for (place = 0; place < 2 * t->left; place++) number_of(&t->values);
    } else if (t->form == BITMASK) {
        part_of(&t->values, elements / 8 + (elements % 8 != 0));
    } else if (t->form == GAPS) {
        t->gap_bits = byte_of(&t->marks);
        t->left = number_of(&t->marks);
        if (t->gap_bits < 1 || t->gap_bits > 16 || t->left > MAX_REACH / 16) return REPRUNE_E_FORMAT;
        t->values = t->marks;
        part_of(&t->values, (t->left * t->gap_bits + 7) / 8);
    }
    return t->values.bad || t->marks.bad ? REPRUNE_E_FORMAT : 0;
}

static uint32_t bit_of(const bytes *b, uint32_t place) {
    return b->data[b->place + (place >> 3)] >> (place & 7) & 1u;
}

/* How many zeros come before the next value, and how many values then. */
static void next_run(stored *t) {
    t->zeros = t->held = 0;
    if (t->form == RUNS) {
        t->zeros = number_of(&t->marks);
        t->held = number_of(&t->marks);
        t->left--;
        return;
    }
    while (t->left && !t->held) {
        uint32_t code = 0, place, skip = (1u << t->gap_bits) - 1;
        for (place = 0; place < t->gap_bits; place++) code |= bit_of(&t->marks, t->bit++) << place;
        t->left--;
        t->zeros += code;
        t->held = code != skip;
    }
}

/* The tensor's next element; one that the payload does not hold is 0 and makes t->values.bad. */
static float value_of(stored *t) {
    if (t->form == DENSE) return float_of(&t->values);
    if (t->form == BITMASK) return bit_of(&t->marks, t->bit++) ? float_of(&t->values) : 0.0f;
    while (!t->zeros && !t->held && t->left) next_run(t);
    if (t->zeros) {
        t->zeros--;
        return 0.0f;
    }
    if (!t->held) return 0.0f;
    t->held--;
    return float_of(&t->values);
}

/* ---- operations --------------------------------------------------------------------------------- */

typedef struct {
    uint32_t channels, rows, columns, plane, size;
    float *at;
} area;

typedef struct {
    uint8_t code;
    area in, other, out;
    uint32_t n[12];
    float low, high;
} operation;

/* Where an operation's weights come from; `two` is 2 to the power of a book's exponent. */
typedef struct {
    reprune_reader *reader; /* or 0: from `weight` */
    stored weight, scale, bias;
    uint8_t scaled, biased;
    uint32_t place;
    float two;
} source;

static int read_area(bytes *b, float *arena, area *a) {
    uint32_t offset = number_of(b);
    a->channels = number_of(b);
    a->rows = number_of(b);
    a->columns = number_of(b);
    if (b->bad || a->channels - 1 >= MAX_SIDE || a->rows - 1 >= MAX_SIDE || a->columns - 1 >= MAX_SIDE)
        return REPRUNE_E_FORMAT;
    a->plane = a->rows * a->columns;
    if (offset > REPRUNE_ARENA || a->plane > REPRUNE_ARENA ||
        a->channels > (REPRUNE_ARENA - offset) / a->plane)
        return REPRUNE_E_SIZE;
    a->size = a->channels * a->plane;
    a->at = arena + offset;
    return 0;
}

static float power_of_two(int exponent) {
    float power = 1.0f;
    for (; exponent > 0; exponent--) power *= 2.0f;
    for (; exponent < 0; exponent++) power *= 0.5f;
    return power;
}

static int open_source(source *s, reprune_reader *reader, bytes *file, const operation *op) {
    uint32_t flags = op->n[9], rows = op->code == CONV ? op->out.channels : op->in.channels;
    uint32_t other = op->code == CONV ? op->in.channels : op->out.channels;
    uint32_t columns = other / op->n[8] * op->n[0] * op->n[1];
    int error;
    s->reader = 0;
    s->two = 1.0f;
    s->scaled = (flags & HAS_SCALE) != 0;
    s->biased = (flags & HAS_BIAS) != 0;
    if (flags & STORED_WEIGHT) {
        if ((error = open_stored(file, &s->weight, rows * columns)) != 0) return error;
    } else {
        if ((error = reprune_next_tensor(reader)) != 0) return error;
        if (reader->tensor.rows != rows || reader->tensor.columns != columns) return REPRUNE_E_SHAPE;
        s->reader = reader;
        s->two = power_of_two(reader->tensor.exponent);
    }
    if (s->scaled && (error = open_stored(file, &s->scale, op->out.channels)) != 0) return error;
    if (s->biased && (error = open_stored(file, &s->bias, op->out.channels)) != 0) return error;
    return 0;
}

static int next_row(source *s) {
    s->place = 0;
    return s->reader ? reprune_next_row(s->reader) : 0;
}

static float next_weight(source *s) {
    if (!s->reader) return value_of(&s->weight);
    return (float)s->reader->tensor.levels[s->reader->codes[s->place++]];
}

static int close_source(const source *s) {
    int bad = (!s->reader && s->weight.values.bad) || (s->scaled && s->scale.values.bad) ||
              (s->biased && s->bias.values.bad);
    return bad ? REPRUNE_E_FORMAT : 0;
}

static void finish_plane(source *s, float *plane, uint32_t size) {
    float factor = s->scaled ? value_of(&s->scale) : 1.0f, bias = s->biased ? value_of(&s->bias) : 0.0f;
    uint32_t place;
    for (place = 0; place < size; place++) plane[place] = plane[place] * s->two * factor + bias;
}

/* The places `from` to `to` - 1 of `count` that, at a step from `shift` on, hit 0 to `size` - 1. */
static void hits(int32_t shift, uint32_t step, uint32_t size, uint32_t count, uint32_t *from,
                 uint32_t *to) {
    int32_t last = (int32_t)size - 1 - shift;
    *from = shift < 0 ? ((uint32_t)-shift + step - 1) / step : 0;
    *to = last < 0 ? 0 : (uint32_t)last / step + 1;
    if (*to > count) *to = count;
}

/* Adds `weight` times the one picture to the other, at one place of the kernel. `to_fine`: steps are
 * taken in the output (a transposed convolution), else in the input. */
static void add_picture(const operation *op, const float *in, float *out, float weight, uint32_t y,
                        uint32_t x) {
    int to_fine = op->code == TRANSPOSED;
    const area *coarse = to_fine ? &op->in : &op->out, *fine = to_fine ? &op->out : &op->in;
    int32_t down = (int32_t)(y * op->n[6]) - (int32_t)op->n[4];
    int32_t across = (int32_t)(x * op->n[7]) - (int32_t)op->n[5];
    uint32_t row, end_row, first, end, place;
    hits(down, op->n[2], fine->rows, coarse->rows, &row, &end_row);
    hits(across, op->n[3], fine->columns, coarse->columns, &first, &end);
    for (; row < end_row; row++) {
        uint32_t fine_row = (uint32_t)((int32_t)(row * op->n[2]) + down) * fine->columns;
        uint32_t coarse_row = row * coarse->columns;
        for (place = first; place < end; place++) {
            uint32_t there = fine_row + (uint32_t)((int32_t)(place * op->n[3]) + across);
            if (to_fine) out[there] += weight * in[coarse_row + place];
            else out[coarse_row + place] += weight * in[there];
        }
    }
}

static int convolve(reprune_reader *reader, bytes *file, const operation *op) {
    const area *in = &op->in, *out = &op->out;
    int to_fine = op->code == TRANSPOSED, error;
    uint32_t rows = to_fine ? in->channels : out->channels, others = to_fine ? out->channels : in->channels;
    uint32_t a_group = others / op->n[8], row, other, y, x;
    source s;
    if ((error = open_source(&s, reader, file, op)) != 0) return error;
    memset(out->at, 0, out->size * sizeof(float));
    for (row = 0; row < rows; row++) {
        uint32_t first = row / (rows / op->n[8]) * a_group;
        if ((error = next_row(&s)) != 0) return error;
        for (other = first; other < first + a_group; other++)
            for (y = 0; y < op->n[0]; y++)
                for (x = 0; x < op->n[1]; x++) {
                    float weight = next_weight(&s);
                    if (weight == 0.0f) continue;
                    add_picture(op, in->at + (to_fine ? row : other) * in->plane,
                                out->at + (to_fine ? other : row) * out->plane, weight, y, x);
                }
        if (!to_fine) finish_plane(&s, out->at + row * out->plane, out->plane);
    }
    for (other = 0; to_fine && other < others; other++)
        finish_plane(&s, out->at + other * out->plane, out->plane);
    return close_source(&s);
}

static int affine(bytes *file, const operation *op) {
    stored scale, bias;
    uint32_t channel, place;
    int error;
    if ((error = open_stored(file, &scale, op->out.channels)) != 0) return error;
    if ((error = open_stored(file, &bias, op->out.channels)) != 0) return error;
    for (channel = 0; channel < op->out.channels; channel++) {
        float factor = value_of(&scale), shift = value_of(&bias);
        for (place = channel * op->out.plane; place < (channel + 1) * op->out.plane; place++)
            op->out.at[place] = op->in.at[place] * factor + shift;
    }
    return scale.values.bad || bias.values.bad ? REPRUNE_E_FORMAT : 0;
}

static float pooled(const operation *op, const float *in, uint32_t y, uint32_t x, uint32_t *count) {
    int32_t top = (int32_t)(y * op->n[2]) - (int32_t)op->n[4];
    int32_t left = (int32_t)(x * op->n[3]) - (int32_t)op->n[5];
    uint32_t row, end_row, first, end, column;
    float found = 0.0f;
    *count = 0;
    hits(top, 1, op->in.rows, op->n[0], &row, &end_row);
    hits(left, 1, op->in.columns, op->n[1], &first, &end);
    for (; row < end_row; row++)
        for (column = first; column < end; column++) {
            float value = in[(uint32_t)((int32_t)row + top) * op->in.columns +
                             (uint32_t)((int32_t)column + left)];
            if (op->code == AVERAGE) found += value;
            else if (!*count || value > found) found = value;
            ++*count;
        }
    return found;
}

static int pool(const operation *op) {
    uint32_t channel, y, x, count;
    float *to = op->out.at;
    for (channel = 0; channel < op->out.channels; channel++)
        for (y = 0; y < op->out.rows; y++)
            for (x = 0; x < op->out.columns; x++) {
                float found = pooled(op, op->in.at + channel * op->in.plane, y, x, &count);
                if (!count) return REPRUNE_E_FORMAT;
                if (op->code == AVERAGE) found /= (float)(op->n[6] ? op->n[0] * op->n[1] : count);
                *to++ = found;
            }
    return 0;
}

static void combine(const operation *op) {
    uint32_t place, spread = op->other.plane == op->in.plane ? 1 : op->in.plane;
    for (place = 0; place < op->out.size; place++) {
        float one = op->in.at[place], other = op->other.at[place / spread];
        op->out.at[place] = op->code == ADD ? one + other : one * other;
    }
}

static float hard(float x) {
    x += 3.0f;
    return (x < 0.0f ? 0.0f : x > 6.0f ? 6.0f : x) / 6.0f;
}

static float activated(const operation *op, float x) {
    switch (op->code) {
    case CLAMP: return x < op->low ? op->low : x > op->high ? op->high : x;
    case LEAKY: return x < 0.0f ? x * op->low : x;
    case HARD_SIGMOID: return hard(x);
    case HARD_SWISH: return x * hard(x);
#if REPRUNE_USES_EXP
    case SIGMOID: return 1.0f / (1.0f + expf(-x));
    case SILU: return x / (1.0f + expf(-x));
    case TANH: return tanhf(x);
#endif
    default: return x;
    }
}

static int place_picture(const operation *op) {
    const uint32_t *n = op->n;
    const area *in = &op->in, *out = &op->out;
    uint32_t channel, row, column;
    if (n[0] + n[5] > in->channels || n[1] + (n[6] - 1) * n[3] >= in->rows ||
        n[2] + (n[7] - 1) * n[4] >= in->columns || n[8] + n[5] > out->channels ||
        n[9] + n[6] > out->rows || n[10] + n[7] > out->columns)
        return REPRUNE_E_FORMAT;
    if (!n[11]) memset(out->at, 0, out->size * sizeof(float));
    for (channel = 0; channel < n[5]; channel++)
        for (row = 0; row < n[6]; row++) {
            const float *from = in->at + (n[0] + channel) * in->plane + (n[1] + row * n[3]) * in->columns;
            float *to = out->at + (n[8] + channel) * out->plane + (n[9] + row) * out->columns + n[10];
            for (column = 0; column < n[7]; column++) to[column] = from[n[2] + column * n[4]];
        }
    return 0;
}

static int enlarge(const operation *op) {
    uint32_t channel, y, x;
    float *to = op->out.at;
    if (!op->n[0] || !op->n[1] || op->out.rows != op->in.rows * op->n[0] ||
        op->out.columns != op->in.columns * op->n[1])
        return REPRUNE_E_FORMAT;
    for (channel = 0; channel < op->out.channels; channel++)
        for (y = 0; y < op->out.rows; y++)
            for (x = 0; x < op->out.columns; x++)
                *to++ = op->in.at[channel * op->in.plane + y / op->n[0] * op->in.columns + x / op->n[1]];
    return 0;
}

#if REPRUNE_USES_EXP
static void softmax(const operation *op) {
    uint32_t place, channel, channels = op->in.channels, plane = op->in.plane;
    for (place = 0; place < plane; place++) {
        const float *from = op->in.at + place;
        float *to = op->out.at + place, most = *from, sum = 0.0f;
        for (channel = 1; channel < channels; channel++)
            if (from[channel * plane] > most) most = from[channel * plane];
        for (channel = 0; channel < channels; channel++) {
            float x = from[channel * plane] - most, power = expf(x);
            sum += power;
            to[channel * plane] = op->code == SOFTMAX ? power : x;
        }
        for (channel = 0; channel < channels; channel++)
            if (op->code == SOFTMAX) to[channel * plane] /= sum;
            else to[channel * plane] -= logf(sum);
    }
}
#endif

/* ---- the engine --------------------------------------------------------------------------------- */

static int read_operation(bytes *b, float *arena, operation *op) {
    static const uint8_t numbers[] = {10, 10, 6, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 2, 0, 0};
    uint32_t place;
    int error;
    op->code = byte_of(b);
    if (op->code > LOG_SOFTMAX) return REPRUNE_E_FORMAT;
#if !REPRUNE_USES_EXP
    if (op->code == SIGMOID || op->code == TANH || op->code == SILU || op->code >= SOFTMAX)
        return REPRUNE_E_FORMAT;
#endif
    if ((error = read_area(b, arena, &op->in)) != 0) return error;
    if (op->code == ADD || op->code == MULTIPLY)
        if ((error = read_area(b, arena, &op->other)) != 0) return error;
    if ((error = read_area(b, arena, &op->out)) != 0) return error;
    for (place = 0; place < numbers[op->code]; place++)
        if ((op->n[place] = number_of(b)) > MAX_SIDE) return REPRUNE_E_FORMAT;
    if (op->code == CLAMP || op->code == LEAKY) op->low = float_of(b);
    if (op->code == CLAMP) op->high = float_of(b);
    return b->bad ? REPRUNE_E_FORMAT : 0;
}

static int far(uint32_t one, uint32_t other) { return other && one > MAX_REACH / other; }

/* Shapes and numbers that the code above takes for granted. */
static int check_operation(const operation *op) {
    const area *in = &op->in, *out = &op->out;
    const uint32_t *n = op->n;
    if (op->code <= AVERAGE) {
        const area *coarse = op->code == TRANSPOSED ? in : out;
        if (!n[0] || !n[1] || !n[2] || !n[3] || far(coarse->rows, n[2]) || far(coarse->columns, n[3]))
            return REPRUNE_E_FORMAT;
    }
    if (op->code <= TRANSPOSED) {
        uint32_t rows = op->code == CONV ? out->channels : in->channels;
        uint32_t others = op->code == CONV ? in->channels : out->channels;
        if (!n[6] || !n[7] || !n[8] || in->channels % n[8] || out->channels % n[8] || far(n[0], n[6]) ||
            far(n[1], n[7]) || n[9] > 7 || far(n[0], n[1]) || far(n[0] * n[1], others / n[8]) ||
            far(n[0] * n[1] * (others / n[8]), rows))
            return REPRUNE_E_FORMAT;
        return 0;
    }
    if (op->code <= AVERAGE || op->code == NEAREST)
        return in->channels == out->channels ? 0 : REPRUNE_E_FORMAT;
    if (op->code == PLACE) {
        if (!n[3] || !n[4] || !n[5] || !n[6] || !n[7] || far(n[6], n[3]) || far(n[7], n[4]))
            return REPRUNE_E_FORMAT;
        return 0;
    }
    if (in->channels != out->channels || in->rows != out->rows || in->columns != out->columns)
        return REPRUNE_E_FORMAT;
    if ((op->code == ADD || op->code == MULTIPLY) &&
        (op->other.channels != in->channels ||
         (op->other.plane != 1 && (op->other.rows != in->rows || op->other.columns != in->columns))))
        return REPRUNE_E_FORMAT;
    return 0;
}

static int run_operation(reprune_reader *reader, bytes *file, const operation *op) {
    uint32_t place;
    switch (op->code) {
    case CONV:
    case TRANSPOSED: return convolve(reader, file, op);
    case MAX_POOL:
    case AVERAGE: return pool(op);
    case AFFINE: return affine(file, op);
    case PLACE: return place_picture(op);
    case NEAREST: return enlarge(op);
    case ADD:
    case MULTIPLY: combine(op); return 0;
#if REPRUNE_USES_EXP
    case SOFTMAX:
    case LOG_SOFTMAX: softmax(op); return 0;
#endif
    default:
        for (place = 0; place < op->out.size; place++)
            op->out.at[place] = activated(op, op->in.at[place]);
        return 0;
    }
}

static void skip_ports(bytes *b) {
    uint32_t ports = number_of(b), dimensions;
    while (ports-- && !b->bad) {
        number_of(b);
        for (dimensions = number_of(b); dimensions && !b->bad; dimensions--) number_of(b);
    }
}

int reprune_infer(reprune_machine *machine, const uint8_t *engine, uint32_t size) {
    bytes all, graph, coded, file;
    uint32_t stored_sum = 0, operations;
    int byte, error;
    if (size < 11 || engine[0] != 'R' || engine[1] != 'P' || engine[2] != 'M' || engine[3] != 1)
        return REPRUNE_E_FORMAT;
    for (byte = 3; byte >= 0; byte--) stored_sum = stored_sum << 8 | engine[size - 4 + (uint32_t)byte];
    if (reprune_checksum(engine, size - 4) != stored_sum) return REPRUNE_E_CHECKSUM;
    all.data = engine;
    all.place = 4;
    all.end = size - 4;
    all.bad = 0;
    graph = part_of(&all, number_of(&all));
    coded = part_of(&all, number_of(&all));
    file = part_of(&all, number_of(&all));
    if (all.bad || file.end - file.place < 9) return REPRUNE_E_FORMAT;
    error = reprune_open(&machine->reader, engine + coded.place, coded.end - coded.place);
    if (error) return error;
    file.place += 4; /* its name and format; its checksum is within the engine's */
    number_of(&file);
    if (number_of(&graph) != REPRUNE_ARENA) return REPRUNE_E_SIZE;
    skip_ports(&graph);
    skip_ports(&graph);
    for (operations = number_of(&graph); operations; operations--) {
        operation op;
        memset(&op, 0, sizeof op);
        if ((error = read_operation(&graph, machine->arena, &op)) != 0) return error;
        if ((error = check_operation(&op)) != 0) return error;
        if ((error = run_operation(&machine->reader, &file, &op)) != 0) return error;
    }
    return graph.bad ? REPRUNE_E_FORMAT : 0;
}
