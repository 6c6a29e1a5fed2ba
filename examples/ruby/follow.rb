# Follow one session from Ruby: ffi-rzmq (Debian: ruby-ffi-rzmq) and docs/protocol.md.
#
#   ruby follow.rb RUN_FOLDER SESSION_ID [EVENT_TO_LOSE]
require "ffi-rzmq"
require "json"
require "securerandom"

# Every event of a session once, in order: what is missing is asked for again.
class Follower
  def initialize(run, session, lose)
    @session = session
    @lose = lose          # as a full queue would
    @last = 0             # everything up to here was shown
    @newest = 0           # known to exist
    @incs = []            # the publisher's incarnations heard so far
    @again = 0            # how many had to be asked for
    @request = nil        # the id of the replay under way
    @over = false
    home = session[/\As(\d+)-/, 1] or abort "#{session} is no session id"
    @context = ZMQ::Context.new
    @events = @context.socket(ZMQ::SUB)
    @events.setsockopt(ZMQ::LINGER, 0)
    @events.setsockopt(ZMQ::SNDHWM, 0)                      # subscriptions are messages, too
    @events.setsockopt(ZMQ::SUBSCRIBE, "event/#{session}/") # before connecting
    @home = "ipc://#{run}/session-#{home}"
    @events.connect("#{@home}.events")
    @commands = @context.socket(ZMQ::DEALER)
    @commands.setsockopt(ZMQ::LINGER, 0)
    @commands.connect("#{@home}.commands")
  end

  # Until the session is closed.
  def run
    poller = ZMQ::Poller.new
    poller.register_readable(@events)
    poller.register_readable(@commands)
    silent = 0
    until @over
      poller.poll(500)
      silent = poller.readables.empty? ? silent + 1 : 0
      # Three seconds, and a session process says something each second.
      warn "nothing answers at #{@home}.events: is voicebus up, and is that its run folder? still waiting" if silent == 6
      poller.readables.each do |socket|
        frames = []
        socket.recv_strings(frames)
        if socket == @events
          came(JSON.parse(frames[1]), true)
        else
          answered(JSON.parse(frames.last))
        end
      end
      ask(@request) if poller.readables.empty? && @request  # again, with the same id
    end
  ensure
    # Else the collector ends them in any order, and a context waits for its sockets.
    [@events, @commands].each(&:close)
    @context.terminate
  end

  private

  # An event, live or again.
  def came(event, live)
    data = event["data"]
    is_new = !@incs.include?(event["inc"])
    @incs << event["inc"] if is_new
    case event["kind"]
    when "welcome"        # our subscription is active from here on
      puts "following #{@session}"
      hear(data["heads"].fetch(@session, 0), is_new)
    when "head"           # each second: shows a lost tail
      hear(data["seq"], is_new)
    else
      return if event["seq"].nil?
      if live && event["seq"] == @lose
        @lose = 0
        return
      end
      @newest = [@newest, event["seq"]].max
      if event["seq"] == @last + 1   # else a repetition, or something before it is missing
        @last += 1
        @again += 1 unless live
        show(event["kind"], data)
      end
    end
    # A welcome tells of live sessions only: one that is over has its events all the same.
    look(event["kind"] == "welcome") if live
  end

  # The publisher says how far it is.
  def hear(head, is_new)
    # It has just come: the one before lost its journal, and what follows is new under numbers
    # used before.
    @last = @newest = head if is_new && head.positive? && head < @last
    @newest = [@newest, head].max
  end

  # Is something missing? Asked for page by page.
  def look(anyway = false)
    missing = @newest > @last
    return unless (anyway || missing) && @request.nil? && !@over
    puts "events #{@last + 1} to #{@newest} are missing: asking for them" if missing && @last.positive?
    ask(SecureRandom.uuid)
  end

  # For a page of what is missing.
  def ask(request)
    @request = request
    @commands.send_string(JSON.generate(
      "v" => 1, "id" => request, "command" => "replay", "session_id" => @session,
      "data" => { "from" => @last + 1, "limit" => 200 }
    ))
  end

  # By the owner of the events.
  def answered(reply)
    return unless reply["id"] == @request   # else to a repetition
    @request = nil
    if reply["ok"]
      reply["data"]["events"].each { |event| came(event, false) }
      hear(reply["data"]["next"] || 0, false)
      look
    elsif reply["error"]["retry"]
      ask(SecureRandom.uuid)
    else
      abort "the session says: #{reply["error"]["message"]}"
    end
  end

  # What is said, and the end.
  def show(kind, data)
    case kind
    when "user_transcript" then puts "caller: #{data["text"]}"
    when "assistant_transcript", "assistant_text" then puts "assistant: #{data["text"]}"
    when "session_closed"
      @over = true
      puts "complete: #{@last} events, #{@again} of them asked for again"
    end
  end
end

abort "usage: follow.rb RUN_FOLDER SESSION_ID [EVENT_TO_LOSE]" if ARGV.length < 2
$stdout.sync = true
Follower.new(ARGV[0], ARGV[1], ARGV[2].to_i).run
