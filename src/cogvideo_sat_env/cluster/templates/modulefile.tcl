#%Module1.0
# cogvideo-sat-env: a modulefile for Environment Modules, written by satenv deploy; the next deploy writes it anew.

proc ModulesHelp { } {
    puts stderr {@HELP@}
}
module-whatis "@MODULE@ @VERSION@: @WHATIS@"
conflict @MODULE@

# What loading changes is what activating the release changes, asked of the release itself; the record of it in the
# variables is what unloading goes by, so that a release that is no longer current, or no longer there, unloads as well.
set record _COGVIDEO_SAT_MODULE
set text ""
if {[info exists ::env($record)]} { set text $::env($record) }

if {[module-info mode load] || [module-info mode display]} {
    if {[module-info mode load] && [info exists ::env(_COGVIDEO_SAT_PREFIX)] && $::env(_COGVIDEO_SAT_PREFIX) ne ""} {
        puts stderr "cogvideo-sat-env: $::env(_COGVIDEO_SAT_PREFIX) is active; leave it first: deactivate"
        exit 1
    }
    if {![catch {exec readlink -f @TCL@} release] && [file isfile "@ROOT@/images/[file tail $release].sqfs"] && ![file isdirectory $release]} {
        puts stderr "cogvideo-sat-env: $release: is an image; have it on the node, in a job: . \"\$(@ROOT@/stage $release)\""
        exit 1
    }
    if {[catch {exec readlink -f @TCL@} release] || ![file isdirectory "$release/conda-meta"]} {
        puts stderr "cogvideo-sat-env: [list @TCL@]: no such release; see: module avail @MODULE@"
        exit 1
    }
    set without {}  ;# in a swap what the other release has set is still there until all is done
    foreach {all kind name} [regexp -all -inline {(set|prepend):(\w+)=} $text] {
        if {$kind eq "set" || ![info exists ::env($name)] || $::env($name) eq ""} { lappend without -u $name }
    }
    if {[catch {exec env {*}$without "$release/bin/python" -I "$release/etc/cogvideo-sat-env/activate.py" modules activate 2>@stderr} text]} {
        puts stderr "cogvideo-sat-env: $release can't be activated; what it says is above"
        exit 1
    }
    set leases @LEASES@
    if {[module-info mode load] && [info exists ::env(SLURM_JOB_ID)] && [file isdirectory $leases]} {
        catch {close [open "$leases/[file tail $release]@$::env(SLURM_JOB_ID)" a]}
    }
}

proc decoded {word} {
    subst -nocommands -novariables [regsub -all {%([0-9A-F]{2})} [string map {\\ \\\\} $word] {\\x\1}]
}
foreach {all kind name value old} [regexp -all -inline {([a-z]+):(\w+)=([^\s=]*)=?(\S*)} $text] {
    switch $kind {
        prepend { prepend-path $name [decoded $value] }
        set { setenv $name [decoded $value] }
        unset { unsetenv $name [decoded $old] }
        default {
            # push, blank: unsetenv with a value, which unloading sets; what pushenv keeps is lost in a swap
            if {[module-info mode remove]} { unsetenv $name [decoded $old] } else { setenv $name [decoded $value] }
        }
    }
}
setenv $record $text
