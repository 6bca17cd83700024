-- cogvideo-sat-env: a modulefile for Lmod, written by satenv deploy; the next deploy writes it anew.
help([[
@HELP@
]])
whatis("Name: @MODULE@")
whatis("Version: @VERSION@")
whatis("Description: @WHATIS@")
conflict("@MODULE@")

-- What loading changes is what activating the release changes, asked of the release itself; the record of it in the
-- variables is what unloading goes by, so that a release that is no longer current, or no longer there, unloads as well.
local record = "_COGVIDEO_SAT_MODULE"
local text = os.getenv(record) or ""

if mode() == "load" or mode() == "show" then
    local release = [==[@PREFIX@]==]
    if mode() == "load" and (os.getenv("_COGVIDEO_SAT_PREFIX") or "") ~= "" then
        LmodError("the environment ", os.getenv("_COGVIDEO_SAT_PREFIX"), " is active; leave it first: deactivate")
    end
    release = capture([==[readlink -f @QUOTED@ 2>/dev/null]==]):gsub("\n$", "")
    if isFile([==[@ROOT@/images/]==] .. (release:match("[^/]+$") or "") .. ".sqfs") and not isDir(release) then
        LmodError(release, [==[: is an image; have it on the node, in a job: . "$(@ROOT@/stage ]==], release, [==[)"]==])
    end
    if release == "" or not isDir(release .. "/conda-meta") then
        LmodError([==[@PREFIX@]==], ": no such release; see: module avail @MODULE@")
    end
    local word = "'" .. release:gsub("'", "'\\''") .. "'"
    text = capture(word .. "/bin/python -I " .. word .. "/etc/cogvideo-sat-env/activate.py modules activate")
    text = text:gsub("\n$", "")
    if not text:find("CONDA_PREFIX=") then
        LmodError(release, " can't be activated; what it says is above")
    end
    local job = os.getenv("SLURM_JOB_ID")
    local leases = [==[@LEASES@]==]
    if mode() == "load" and job and isDir(leases) then
        local lease = io.open(leases .. "/" .. release:match("[^/]+$") .. "@" .. job, "a")
        if lease then lease:close() end
    end
end

local function restore_empty(name)  -- Lmod leaves it unset; in a swap the next module may have set it
    local words = {
        sh = "[ -n \"${NAME+x}\" ] || export NAME='';",
        csh = "if ( ! $?NAME ) setenv NAME '';",
        fish = "set -q NAME; or set -gx NAME '';",
    }
    local word = words[myShellType()] or words[myShellName()]
    if word then execute{ cmd = word:gsub("NAME", name), modeA = { "unload" } } end
end

for kind, name, value in text:gmatch("(%l+):([%w_]+)=(%S*)") do
    value = value:gsub("=.*", ""):gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end)
    if kind == "prepend" then
        prepend_path(name, value)
    elseif kind == "push" then
        pushenv(name, value)
    elseif kind == "unset" then
        pushenv(name, false)
    else
        setenv(name, value)
        if kind == "blank" then restore_empty(name) end
    end
end
setenv(record, text)
