/* Stand-in for libcuda.so.1: starts, counts devices and says its version as the simulated driver's state has it.
 *
 * Codes: facts/gpu-hosts.md 3.4 and 3.5. Compiled without headers and libraries, so that any image's libc serves it.
 * A device is there when a node of its name opens, as for nvidia-smi beside it. GPUSIM_ROOT: another root (tests).
 */

enum { NOT_INITIALIZED = 3, NO_DEVICE = 100, SYSTEM_DRIVER_MISMATCH = 803, UNKNOWN = 999 };

extern int open(const char *path, int flags, ...);
extern long read(int file, void *into, unsigned long size);
extern int close(int file);
extern char *getenv(const char *name);

static char state[65536];
static int started;

static int opened(const char *path)
{
    char whole[512];
    const char *root = getenv("GPUSIM_ROOT");
    unsigned long end = 0;

    for (; root && root[end] && end < 255; end++)
        whole[end] = root[end];
    for (; *path && end < sizeof whole - 1; end++)
        whole[end] = *path++;
    whole[end] = 0;
    return open(whole, 0);
}

static int opens(const char *path)
{
    int file = opened(path);

    if (file >= 0)
        close(file);
    return file >= 0;
}

static void read_state(void)
{
    int file = opened("/run/gpusim/state");
    long size = 0;

    if (file < 0)
        file = opened("/usr/share/gpusim/state"); /* there it is in containers */
    if (file >= 0) {
        size = read(file, state, sizeof state - 1);
        close(file);
    }
    state[size > 0 ? size : 0] = 0;
}

/* What follows a word at the beginning of a line, 0 if no line has it. */
static const char *after(const char *word)
{
    const char *line = state, *text, *name;

    while (*line) {
        for (text = line, name = word; *name && *text == *name; text++)
            name++;
        if (!*name)
            return text;
        while (*line && *line++ != '\n')
            ;
    }
    return 0;
}

static int number(const char *text, int otherwise)
{
    int found = 0;

    if (!text)
        return otherwise;
    while (*text >= '0' && *text <= '9')
        found = 10 * found + *text++ - '0';
    return found;
}

static int devices(void)
{
    char path[] = "/dev/nvidia0";
    int count = 0;

    for (; path[11] <= '9'; path[11]++)
        count += opens(path);
    return count ? count : opens("/dev/dxg");
}

static int mismatch(void)
{
    const char *module = after("module "), *library = after("library ");

    while (module && library && *module == *library && *module != '\n') {
        module++;
        library++;
    }
    return module && library && *module != *library;
}

int cuInit(unsigned int flags)
{
    int code;

    (void)flags;
    read_state();
    code = number(after("cuinit "), -1);
    if (code < 0) {
        if (!after("module "))
            code = NO_DEVICE;
        else if (mismatch())
            code = SYSTEM_DRIVER_MISMATCH;
        else if (!devices())
            code = NO_DEVICE;
        else
            code = opens("/dev/nvidia-uvm") || opens("/dev/dxg") ? 0 : UNKNOWN;
    }
    started = !code;
    return code;
}

int cuDeviceGetCount(int *count)
{
    int code = started ? number(after("cucount "), 0) : NOT_INITIALIZED;

    if (!code)
        *count = devices();
    return code;
}

int cuDriverGetVersion(int *version)
{
    read_state();
    *version = number(after("cuversion "), 13000);
    return 0;
}
