/* A library as MODFLOW 6 is one, for the package xmipy: u' = -rate u on 2 rows of 3 columns, kept in memory of the library. */
#include <string.h>

#define ROWS 2
#define COLUMNS 3

int BMI_LENCOMPONENTNAME = 256, BMI_LENVERSION = 256, BMI_LENVARADDRESS = 51, BMI_LENVARTYPE = 51, BMI_LENGRIDTYPE = 17;
int BMI_LENERRMESSAGE = 1025, ISTDOUTTOFILE = 0;

static double u[ROWS * COLUMNS], rate, now;
static int substeps;

static void *memory(const char *name) {
    if (!strcmp(name, "U")) return u;
    if (!strcmp(name, "RATE")) return &rate;
    return strcmp(name, "SUBSTEPS") ? NULL : (void *)&substeps;
}

static int bytes(const char *name) { return !strcmp(name, "U") ? sizeof u : !strcmp(name, "RATE") ? sizeof rate : sizeof substeps; }

int initialize(const char *config) { for (int i = 0; i < ROWS * COLUMNS; i++) u[i] = 1; rate = 0.5, substeps = 1, now = 0; return 0; }
int finalize(void) { return 0; }
int get_current_time(double *t) { *t = now; return 0; }
int get_end_time(double *t) { *t = 1e30; return 0; }
int get_time_step(double *dt) { *dt = 0.25; return 0; }
int update(void) {
    for (int s = 0; s < substeps; s++)
        for (int i = 0; i < ROWS * COLUMNS; i++) u[i] *= 1 - 0.25 / substeps * rate * (1 + i); 
    now += 0.25;
    return 0;
}
int update_until(double t) { while (now < t - 1e-9) update(); return 0; }
int get_component_name(char *name) { strcpy(name, "decay"); return 0; }
int get_last_bmi_error(char *said) { strcpy(said, "no such variable"); return 0; }
int get_input_item_count(int *count) { *count = 0; return 0; }
int get_output_item_count(int *count) { *count = 3; return 0; }
int get_input_var_names(char *names) { return 0; }
int get_output_var_names(char *names) { strcpy(names, "U"), strcpy(names + 51, "RATE"), strcpy(names + 102, "SUBSTEPS"); return 0; }
int get_var_type(const char *name, char *type) {
    strcpy(type, !strcmp(name, "U") ? "DOUBLE (6)" : !strcmp(name, "RATE") ? "DOUBLE" : "INTEGER");
    return memory(name) == NULL;
}
int get_var_rank(const char *name, int *rank) { *rank = strcmp(name, "U") ? 0 : 2; return 0; }
int get_var_shape(const char *name, int *shape) { if (!strcmp(name, "U")) shape[0] = ROWS, shape[1] = COLUMNS; return 0; }
int get_var_itemsize(const char *name, int *size) { *size = strcmp(name, "SUBSTEPS") ? 8 : 4; return 0; }
int get_var_nbytes(const char *name, int *size) { *size = bytes(name); return 0; }
int get_var_grid(const char *name, int *grid) { *grid = strcmp(name, "U") ? 2 : 1; return memory(name) == NULL; }
int get_grid_type(const int *grid, char *type) { strcpy(type, *grid == 1 ? "rectilinear" : "scalar"); return 0; }
int get_grid_rank(const int *grid, int *rank) { *rank = *grid == 1 ? 2 : 0; return 0; }
int get_grid_shape(const int *grid, int *shape) { shape[0] = ROWS, shape[1] = COLUMNS; return 0; }
int get_value(const char *name, void **into) { memcpy(*into, memory(name), bytes(name)); return 0; }
int get_value_ptr(const char *name, void **at) { *at = memory(name); return 0; }
int set_value(const char *name, void **from) { memcpy(memory(name), *from, bytes(name)); return 0; }
